//! `--limit`, beyond what the comparison with Ansible covers.

use super::*;

const FLEET: &str = "\
all:
  children:
    web: {hosts: {'web[01:05]': }}
    db: {hosts: {'db[1:2]': }}
    prod: {hosts: {web01: , web03: , db1: }}
  hosts: {'2001:db8::1': , 'mail.example.com': }
";

#[test]
fn patterns_select_in_inventory_order() {
    let inventory = load(FLEET).inventory;
    let table: [(&str, &[&str]); 20] = [
        ("web01", &["web01"]),
        ("db,web01", &["web01", "db1", "db2"]),
        ("web*:!web03:&prod", &["web01"]),
        ("!web03:&prod:web*", &["web01"]),
        ("web*,!web03,&prod", &["web01"]),
        (" web01 , db1 ", &["web01", "db1"]),
        ("web01 db1", &["web01", "db1"]),
        ("web01,,db1,", &["web01", "db1"]),
        ("!web:!db", &["2001:db8::1", "mail.example.com"]),
        ("&prod", &["web01", "web03", "db1"]),
        ("2001:db8::1", &["2001:db8::1"]),
        ("2001:db8::1,db1", &["2001:db8::1", "db1"]),
        ("~^(web0[12]|db)", &["web01", "web02", "db1", "db2"]),
        ("web[0]", &["web01"]),
        ("web[-1]", &["web05"]),
        ("web[1:2]", &["web02", "web03"]),
        ("web[3:]:db", &["web04", "web05", "db1", "db2"]),
        ("web0[!1-4]", &["web05"]),
        ("*.example.com", &["mail.example.com"]),
        ("WEB01,web01", &["web01"]),
    ];
    for (limit, expected) in &table[..19] {
        assert_eq!(names(&inventory, Some(limit)), *expected, "{limit}");
    }
    assert!(inventory.select(Some(table[19].0)).is_err(), "names are case-sensitive");
    assert_eq!(names(&inventory, None).len(), 9);
    assert_eq!(names(&inventory, None), names(&inventory, Some("all")));
}

#[test]
fn a_file_names_one_pattern_a_line() {
    let files =
        Files::new(&[("hosts.yml", FLEET), ("limit.txt", "# retry\nweb02\n\n  db*  \n!db2\r\n"), ("none.txt", "# none\n")]);
    let inventory = files.load("hosts.yml").unwrap().inventory;
    let limit = format!("@{}", files.path("limit.txt").display());
    assert_eq!(names(&inventory, Some(&limit)), ["web02", "db1"]);
    assert_eq!(names(&inventory, Some(&format!("{limit},web05"))), ["web02", "web05", "db1"]);
    let none = format!("@{}", files.path("none.txt").display());
    for limit in [none.clone(), format!("{none},!web01"), format!("{none},&prod")] {
        let error = inventory.select(Some(&limit)).expect_err("an empty file must not mean every host");
        assert!(error.to_string().ends_with("the file names no host"), "{error}");
    }
}
