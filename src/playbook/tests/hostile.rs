//! Nothing in a playbook makes reading it panic, hang or grow without bound.

use std::{fs::File, time::Instant};

use proptest::prelude::*;

use super::{values::EVERY_KEY, *};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}|[a-z_:%{}\\[\\],&*!<'\"|>0-9 \\n\\t-]{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn a_damaged_playbook_never_panics_and_is_accepted_only_if_it_fits_the_schema(
        edits in proptest::collection::vec((0..EVERY_KEY.len(), 0usize..12, "[a-z0-9%:{}&*!<. \\n\\[\\]-]{0,6}"), 1..4),
    ) {
        let mut text: Vec<char> = EVERY_KEY.chars().collect();
        for (place, removed, inserted) in edits {
            let start = place.min(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        if read(&text).is_ok() {
            schema::assert_fits(&text);
        }
    }
}

#[test]
fn bombs_deep_nests_and_endless_lists_are_refused_quickly() {
    let begin = Instant::now();
    let mut bomb = "a: &a0 [x]\n".to_owned();
    (1..40).for_each(|level| bomb += &format!("b{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(9)));
    assert!(problems(&bomb).contains("more than 1000000 values"));
    assert!(problems(&format!("hooks: {}", "[".repeat(100_000))).contains("deep"));
    assert!(problems(&format!("hooks: {}{}", "{hooks: ".repeat(70), "}".repeat(70))).contains("more than 64 levels deep"));
    let long = |key: &str, entries: usize| format!("{key}: [{}]", "x, ".repeat(entries));
    assert!(problems(&long("linked_dirs", 200_000)).contains("must have 0 to 100 entries, but it has 200000"));
    assert!(problems(&format!("rollout: {{waves: [{}]}}", "1, ".repeat(101))).contains("must have 1 to 100 entries"));
    assert!(problems(&format!("hooks: {{on_revert: [{}]}}", "x, ".repeat(33))).contains("must have 0 to 32 entries"));
    assert!(problems(&format!("health: {{command: '{}'}}", "x".repeat(20_000))).contains("must have at most 16384 bytes"));
    assert!(problems("hooks: {on_revert: [\"a\\0b\"]}").contains("must not contain a NUL character"));
    assert!(problems(&format!("confirm_timeout: {}s", "9".repeat(400))).contains("must be a duration from 5s to 1h"));
    assert!(begin.elapsed().as_secs() < 30, "took {:?}", begin.elapsed());
}

#[test]
fn a_huge_file_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("huge.yaml");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = Playbook::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("huge.yaml: the file is larger than 1024 KiB"), "{error}");
}
