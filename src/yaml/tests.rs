use std::{fmt::Write as _, path::Path, time::Instant};

use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Arc<Source> {
    Source::new(Path::new("x.yml"), text.to_owned())
}

fn good(text: &str) -> Node {
    parse(&source(text)).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn bad(text: &str) -> String {
    match parse(&source(text)) {
        Ok(node) => panic!("accepted as {node:?}:\n{text}"),
        Err(error) => error.to_string(),
    }
}

fn json(text: &str) -> String {
    good(text).to_json(&|_| true).to_string()
}

#[test]
fn every_value_knows_its_place_and_an_alias_that_of_its_anchor() {
    let root = good("a: &x\n  - 1\n  - {b: two}\nc: *x\n");
    let map = root.as_map().unwrap();
    let Value::Seq(items) = &map.get("a").unwrap().value else { panic!("no list") };
    assert_eq!(items[0].location.to_string(), "x.yml:2:5");
    assert_eq!(items[1].as_map().unwrap().get("b").unwrap().location.to_string(), "x.yml:3:9");
    assert_eq!(map.entry("c").unwrap().0.location.to_string(), "x.yml:4:1");
    let Value::Seq(again) = &map.get("c").unwrap().value else { panic!("no list") };
    assert_eq!(again[0].location.to_string(), "x.yml:2:5");
    assert_eq!(good("é: ü").as_map().unwrap().get("é").unwrap().location.to_string(), "x.yml:1:4", "columns are characters");
}

#[test]
fn merges_give_defaults_and_the_first_of_a_list_wins() {
    let text = "base: &b {x: 1, y: 1}\nmore: &m {y: 2, z: 2}\nr: {<<: [*m, *b], z: 3}\nq: {\"<<\": 1}\n";
    assert_eq!(json(text), r#"{"base":{"x":1,"y":1},"more":{"y":2,"z":2},"q":{"<<":1},"r":{"x":1,"y":2,"z":3}}"#);
    assert!(bad("a: {<<: 5}").contains("x.yml:1:5: `<<` merges mappings, but this is a whole number"));
}

#[test]
fn tags_stay_on_their_node() {
    let root = good(
        "v: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  61\nu: !unsafe '{{'\nt: !thing [1]\nb: !!binary aGk=\ns: !!set {a}\n",
    );
    let tag = |key: &str| root.as_map().unwrap().get(key).unwrap().tag.clone();
    assert_eq!(tag("v").as_deref(), Some("!vault"));
    assert_eq!(tag("u").as_deref(), Some("!unsafe"));
    assert_eq!(tag("t").as_deref(), Some("!thing"));
    assert_eq!(tag("b").as_deref(), Some("!!binary"));
    assert_eq!(tag("s").as_deref(), Some("!!set"));
    assert_eq!(json("a: !vault x"), r#"{"a":"(vault)"}"#);
    assert!(bad("a: !!int x").contains("`x` is not a YAML `!!int`"));
}

#[test]
fn a_duplicate_key_names_both_lines() {
    assert_eq!(bad("a: 1\nb: 2\na: 3\n"), "x.yml:3:1: the key `a` is already in this mapping, on line 1");
    assert_eq!(
        bad("x:\n  1: a\n  1.0: b\n"),
        "x.yml:3:3: the key `1.0` is already in this mapping, on line 2".replace("1.0", "1")
    );
    assert!(bad("yes: 1\ntrue: 2\n").contains("already in this mapping"));
    good("1: a\n\"1\": b\n");
}

#[test]
fn broken_files_are_refused_with_a_place() {
    for (text, start) in [
        ("a: [1, 2\n", "x.yml:1:4: not valid YAML: unclosed bracket"),
        ("a: 1\n b: 2\n", "x.yml:2:"),
        ("a:\n\t- 1\n", "x.yml:2:"),
        ("a: 1\n---\nb: 2\n", "x.yml:2:1: a second document"),
        ("a: *nobody\n", "x.yml:1:4: "),
        ("a: &a [*a]\n", "x.yml:1:8: this alias stands for a value that contains it"),
        ("? [1]\n: 2\n", "x.yml:1:3: a key cannot be a list"),
        ("a: 'open\n", "x.yml:"),
        ("a: {{ b }}\n", "x.yml:1:"),
    ] {
        assert!(bad(text).starts_with(start), "{text:?}: {}", bad(text));
    }
    assert!(good("# nothing\n").is_null());
    assert!(good("").is_null());
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let begin = Instant::now();
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = format!("*a{}, ", level - 1).repeat(10);
        let _ = writeln!(laughs, "a{level}: &a{level} [{previous}]");
    }
    assert!(bad(&laughs).contains("more than 1000000 values"));
    let mut merges = String::from("m0: &m0 {a: 1, b: 1}\n");
    for level in 1..40 {
        let before = level - 1;
        let _ = writeln!(merges, "m{level}: &m{level} {{<<: [*m{before}, *m{before}], k{level}: 1}}");
    }
    assert!(bad(&merges).contains("more than 1000000 values"));
    let long = format!("a: &a '{}'\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(100));
    assert!(bad(&long).contains("64 MiB of text"));
    assert!(bad(&"[".repeat(100_000)).contains("deep"));
    assert!(bad(&"- ".repeat(100_000)).contains("deep"));
    assert!(bad(&format!("{}x{}", "{a: ".repeat(65), "}".repeat(65))).contains("more than 64 levels deep"));
    good(&format!("{}x{}", "{a: ".repeat(64), "}".repeat(64)));
    let through_aliases =
        format!("a: &a {}\nb: &b [{}*a{}]\n", "[".repeat(40) + &"]".repeat(40), "[".repeat(30), "]".repeat(30));
    assert!(bad(&through_aliases).contains("more than 64 levels deep"));
    assert!(bad(&"- a\n".repeat(1_100_000)).contains("more than 1000000 values"));
    assert!(begin.elapsed().as_secs() < 30, "took {:?}", begin.elapsed());
}

#[test]
fn files_that_cannot_be_text_are_refused_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f.yml");
    let failure = |path: &Path| {
        let error = read(path, 8 << 10).unwrap_err();
        (error.to_string(), error.hint().unwrap_or_default().to_owned())
    };
    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    let (message, hint) = failure(&path);
    assert!(message.ends_with("f.yml:2:4: the file is not UTF-8 text from here on"), "{message}");
    assert!(hint.contains("iconv"), "{hint}");
    assert!(failure(directory.path()).1.contains("not a directory"));
    assert!(failure(&directory.path().join("none")).1.contains("check the path"));
    std::fs::File::create(&path).unwrap().set_len((8 << 10) + 1).unwrap();
    assert!(failure(&path).0.contains("larger than 8 KiB"));
    std::fs::write(&path, "\u{feff}a: 1\n").unwrap();
    assert_eq!(parse(&read(&path, 8 << 10).unwrap()).unwrap().as_map().unwrap().len(), 1);
}

#[test]
fn json_files_follow_json_rules() {
    assert_eq!(json("{\"a\": 1e3, \"b\": 010}"), r#"{"a":"1e3","b":8}"#, "not JSON because of 010");
    assert_eq!(json("{\"a\": 1e3, \"b\": [true, null, -1]}"), r#"{"a":1000.0,"b":[true,null,-1]}"#);
    assert_eq!(json("\t{\"a\":\n\t\"\\ud83d\\ude00\"\n}"), r#"{"a":"😀"}"#);
}

/// Pieces of YAML that mean something, to be put together at random.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        ": ",
        "\n",
        "- ",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&x ",
        "*x",
        "<<",
        "!vault ",
        "!!int ",
        "|\n",
        ">-\n",
        "'",
        "\"",
        "#",
        "?",
        "---\n",
        "...\n",
        "%TAG ! x\n",
        "\t",
        "0x1",
        "1:2",
        "é",
        "\\",
        "~",
        "@",
        "`",
        "\u{0}",
        "\r\n",
        "!<x> ",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = parse(&source(&text));
    }

    #[test]
    fn no_mixture_of_yaml_makes_it_panic(text in fragments()) {
        if let Ok(node) = parse(&source(&text)) {
            let _ = node.to_json(&|_| true);
        }
    }

    #[test]
    fn json_reads_as_itself(numbers in proptest::collection::vec(any::<i64>(), 0..5), texts in proptest::collection::vec("\\PC{0,12}", 0..5)) {
        let value = serde_json::json!({"numbers": numbers, "texts": texts, "nested": [{"a": null, "b": true}]});
        let node = good(&value.to_string());
        prop_assert_eq!(node.to_json(&|_| true), value);
    }
}
