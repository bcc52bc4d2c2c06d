//! The pure rules for names and link targets.

use super::{super::name::EntryPath, *};
use crate::model::tree::LinkFault;

fn parse(name: &[u8]) -> Result<EntryPath, Rule> {
    EntryPath::parse(name, &UnpackLimits::default())
}

#[test]
fn names_are_normalised_or_refused() {
    for (name, path) in [("a", "a"), ("./a//b/./c/", "a/b/c"), ("./", ""), (".", ""), ("...", "..."), ("a b/é\n", "a b/é\n")]
    {
        assert_eq!(parse(name.as_bytes()).unwrap().as_bytes(), path.as_bytes(), "{name:?}");
    }
    let long = "n".repeat(256);
    let deep = "d/".repeat(129);
    let endless = "dd/".repeat(1366);
    for (name, rule) in [
        ("", Rule::EmptyName),
        ("a\0b", Rule::NulInName),
        ("/a", Rule::AbsoluteName),
        ("//", Rule::AbsoluteName),
        ("..", Rule::ParentInName),
        ("a/../b", Rule::ParentInName),
        ("a/..", Rule::ParentInName),
        (long.as_str(), Rule::LongComponent),
        (deep.as_str(), Rule::TooDeep),
        (endless.as_str(), Rule::LongName),
    ] {
        assert_eq!(parse(name.as_bytes()), Err(rule), "{name:?}");
    }
    assert!(parse("n".repeat(255).as_bytes()).is_ok() && parse("d/".repeat(128).as_bytes()).is_ok());
}

#[test]
fn link_targets_stay_inside_or_are_refused() {
    let long = "t".repeat(4096);
    for (link, target, verdict) in [
        ("a", "b", Ok(())),
        ("a", "./b/c/", Ok(())),
        ("a", ".", Ok(())),
        ("a/b", "..", Ok(())),
        ("a/b/c", "../../d/e", Ok(())),
        ("a/b/c", ".././/../x", Ok(())),
        ("a", "..", Err(Rule::Link(LinkFault::Outside))),
        ("a/b", "../..", Err(Rule::Link(LinkFault::Outside))),
        ("a/b", "../../dest/x", Err(Rule::Link(LinkFault::Outside))),
        ("a", "b/../..", Err(Rule::Link(LinkFault::Outside))),
        ("a", "b/../../c", Err(Rule::Link(LinkFault::Outside))),
        ("a/b", "c/..", Err(Rule::Link(LinkFault::ParentAfterName))),
        ("a", "/etc/passwd", Err(Rule::Link(LinkFault::Absolute))),
        ("a", "", Err(Rule::Link(LinkFault::Bad))),
        ("a", "b\0c", Err(Rule::Link(LinkFault::Bad))),
        ("a", long.as_str(), Err(Rule::Link(LinkFault::Bad))),
    ] {
        assert_eq!(parse(link.as_bytes()).unwrap().check_target(target.as_bytes()), verdict, "{link} -> {target:?}");
    }
}

#[test]
fn messages_show_names_harmless_and_short() {
    let error = UnpackError::refused(b"a\x1b[2J\nb\xff", Rule::Duplicate).to_string();
    assert_eq!(error, "archive entry `a\\u{1b}[2J\\nb\u{fffd}` was refused: the archive holds this path twice");
    assert!(UnpackError::refused("é".repeat(5000).as_bytes(), Rule::LongName).to_string().chars().count() < 280);
}
