use proptest::prelude::*;

use super::*;

/// Makes the wire encoding of a key of a type; `id` tells keys apart.
fn key(key_type: &str, id: u8) -> Vec<u8> {
    let mut blob = (key_type.len() as u32).to_be_bytes().to_vec();
    blob.extend(key_type.as_bytes());
    blob.extend([0, 0, 0, 32]);
    blob.extend([id; 32]);
    blob
}

fn ed(id: u8) -> Vec<u8> {
    key("ssh-ed25519", id)
}

fn line(names: &str, id: u8) -> String {
    format!("{names} ssh-ed25519 {}\n", BASE64_STANDARD.encode(ed(id)))
}

fn file(text: &str) -> KnownHosts {
    KnownHosts::parse(Path::new("/kh"), text.as_bytes())
}

fn check(text: &str, host: &str, port: u16, id: u8) -> Verdict {
    HostKeys::find([&file(text)], &HostId::new(host, port)).check(&ed(id))
}

fn at(line: usize) -> Location {
    Location { path: Path::new("/kh").into(), line }
}

#[test]
fn names_match_by_openssh_rules() {
    // names, host, port, matches
    let table = [
        ("web1", "web1", 22, true),
        ("web1", "WEB1", 22, true),
        ("Web1", "web1", 22, true),
        ("web1", "web10", 22, false),
        ("web1,web2", "web2", 22, true),
        ("web*", "web10.example.com", 22, true),
        ("web?", "web1", 22, true),
        ("web?", "web10", 22, false),
        ("*", "anything", 22, true),
        ("*.example.com,!bad.example.com", "good.example.com", 22, true),
        ("*.example.com,!bad.example.com", "bad.example.com", 22, false),
        ("!bad.example.com,*.example.com", "bad.example.com", 22, false),
        ("!web1", "web2", 22, false),
        ("[web1]:2222", "web1", 2222, true),
        ("[web1]:2222", "web1", 22, false),
        ("[web1]:2222", "web1", 2223, false),
        ("[web*]:2222", "web1", 2222, true),
        ("[web1]:*", "web1", 2222, true),
        // A host on another port is also known by its bare name.
        ("web1", "web1", 2222, true),
        ("10.0.0.*", "10.0.0.7", 22, true),
        ("::1", "::1", 22, true),
        ("[::1]:2222", "::1", 2222, true),
        ("*a*b*c", "xxaxxbxxc", 22, true),
        ("*a*b*c", "xxaxxbxxcd", 22, false),
        ("", "", 22, false),
        ("web1,", "web1", 22, true),
    ];
    for (names, host, port, matches) in table {
        let verdict = check(&line(names, 1), host, port, 1);
        assert_eq!(matches!(verdict, Verdict::Known(_)), matches, "{names} {host}:{port}: {verdict:?}");
    }
}

#[test]
fn a_pattern_takes_no_exponential_time() {
    let pattern = format!("{}b", "*a".repeat(500));
    let host = "a".repeat(250);
    assert_eq!(check(&line(&pattern, 1), &host, 22, 1), Verdict::Unknown);
}

#[test]
fn hashed_names_match_exactly() {
    let salt = [7; HASH_LEN];
    let own = new_line(&HostId::new("Web1", 2222), "ssh-ed25519", &ed(1), Some(salt));
    assert!(own.starts_with("|1|BwcHBwcHBwcHBwcHBwcHBwcHBwc=|"), "{own}");
    assert!(!own.to_lowercase().contains("web1"));
    assert_eq!(check(&own, "web1", 2222, 1), Verdict::Known(at(1)));
    assert_eq!(check(&own, "web1", 22, 1), Verdict::Unknown);
    assert_eq!(check(&own, "web2", 2222, 1), Verdict::Unknown);
    let bare = new_line(&HostId::new("web1", 22), "ssh-ed25519", &ed(1), Some(salt));
    assert_eq!(check(&bare, "web1", 2222, 1), Verdict::Known(at(1)));
}

#[test]
fn a_hash_that_openssh_made_is_understood() {
    // What `ssh-keygen -H` made of a line for `example.com`.
    let text = line("|1|kne6FPuQuPvQY17xVhlRv0pxID8=|KTT7wG5tREOm8/fGB78unDvSTrk=", 1);
    assert_eq!(check(&text, "example.com", 22, 1), Verdict::Known(at(1)));
    assert_eq!(check(&text, "example.org", 22, 1), Verdict::Unknown);
}

#[test]
fn one_matching_key_in_any_file_makes_the_host_known() {
    let (first, second) = (file(&(line("web1", 1) + &line("web1", 2))), file(&line("web1", 3)));
    let keys = HostKeys::find([&first, &second], &HostId::new("web1", 22));
    assert_eq!(keys.check(&ed(2)), Verdict::Known(at(2)));
    assert_eq!(keys.check(&ed(3)), Verdict::Known(at(1)));
    assert_eq!(keys.check(&ed(4)), Verdict::Changed(at(1)));
}

#[test]
fn other_keys_only_are_a_changed_key_and_nothing_is_unknown() {
    assert_eq!(check(&line("web1", 1), "web1", 22, 2), Verdict::Changed(at(1)));
    assert_eq!(check(&line("web2", 1), "web1", 22, 1), Verdict::Unknown);
    assert_eq!(check("", "web1", 22, 1), Verdict::Unknown);
    // Another key under the bare name says nothing about another port.
    assert_eq!(check(&line("web1", 1), "web1", 2222, 2), Verdict::Unknown);
    // A line for the port itself does.
    assert_eq!(check(&(line("web1", 2) + &line("[web1]:2222", 1)), "web1", 2222, 2), Verdict::Changed(at(2)));
}

#[test]
fn revoked_beats_known_on_every_port() {
    let text = line("web1", 1) + "@revoked " + &line("*", 1);
    assert_eq!(check(&text, "web1", 22, 1), Verdict::Revoked(at(2)));
    let text = line("[web1]:2222", 1) + "@revoked " + &line("web1", 1);
    assert_eq!(check(&text, "web1", 2222, 1), Verdict::Revoked(at(2)));
    let text = line("web1", 1) + "@revoked " + &line("web2", 1);
    assert_eq!(check(&text, "web1", 22, 1), Verdict::Known(at(1)), "revoked for another host");
}

#[test]
fn authorities_vouch_for_certificates_and_for_nothing_else() {
    let text = format!("@cert-authority {}@revoked {}", line("*.example.com", 9), line("*", 8));
    let keys = HostKeys::find([&file(&text)], &HostId::new("a.example.com", 22));
    assert!(keys.has_authority());
    assert_eq!(keys.check(&ed(9)), Verdict::Unknown);
    assert_eq!(keys.check_certificate(&ed(1), &ed(9)), Verdict::Known(at(1)));
    assert_eq!(keys.check_certificate(&ed(1), &ed(7)), Verdict::Unknown);
    assert_eq!(keys.check_certificate(&ed(8), &ed(9)), Verdict::Revoked(at(2)));
    assert_eq!(keys.check_certificate(&ed(1), &ed(8)), Verdict::Revoked(at(2)));
    let plain = HostKeys::find([&file(&line("a.example.com", 9))], &HostId::new("a.example.com", 22));
    assert_eq!(plain.check_certificate(&ed(1), &ed(9)), Verdict::Unknown);
    assert!(!plain.has_authority());
}

#[test]
fn an_alias_stands_for_itself() {
    let text = line("fleet", 1);
    let keys = HostKeys::find([&file(&text)], &HostId::alias("Fleet"));
    assert_eq!(keys.check(&ed(1)), Verdict::Known(at(1)));
}

#[test]
fn key_types_are_those_that_would_make_the_host_known() {
    let rsa = format!("web1 ssh-rsa {}\n", BASE64_STANDARD.encode(key("ssh-rsa", 1)));
    let types = |text: &str, port| HostKeys::find([&file(text)], &HostId::new("web1", port)).key_types();
    let text = format!("{rsa}{}{rsa}@revoked {}", line("web1", 1), line("web1", 2));
    assert_eq!(types(&text, 22), ["ssh-rsa", "ssh-ed25519"]);
    assert_eq!(types(&text, 2222), ["ssh-rsa", "ssh-ed25519"], "by the bare name");
    assert_eq!(types(&(text + &line("[web1]:2222", 3)), 2222), ["ssh-ed25519"]);
    assert!(types("", 22).is_empty());
}

#[test]
fn lines_that_do_not_parse_are_skipped() {
    let good = line("web1", 1);
    let key = BASE64_STANDARD.encode(ed(1));
    let table = [
        "# web1 comment\n".to_owned(),
        "\n \t\n".to_owned(),
        "web1\n".to_owned(),
        "web1 ssh-ed25519\n".to_owned(),
        "web1 ssh-ed25519 not-base64!\n".to_owned(),
        format!("web1 ssh-rsa {key}\n"),
        format!("web1 ssh-unknown {key}\n"),
        format!("@unknown web1 ssh-ed25519 {key}\n"),
        format!("@revoked @cert-authority web1 ssh-ed25519 {key}\n"),
        format!("@revoked\nweb1 2048 35 {key}\n"),
        format!("|1|AAAA|AAAA ssh-ed25519 {key}\n"),
        format!("|2|x|y ssh-ed25519 {key}\n"),
        format!("web1 ssh-ed25519 {}\n", &key[..8]),
    ];
    for bad in table {
        assert_eq!(check(&bad, "web1", 22, 1), Verdict::Unknown, "{bad}");
        let lines = bad.lines().count();
        assert_eq!(check(&(bad.clone() + &good), "web1", 22, 1), Verdict::Known(at(lines + 1)), "{bad}");
    }
    let spaced = format!("  \tweb1\t ssh-ed25519   {key} a comment\r\n");
    assert_eq!(check(&spaced, "web1", 22, 1), Verdict::Known(at(1)));
    assert_eq!(check(good.trim_end(), "web1", 22, 1), Verdict::Known(at(1)), "no final line break");
    let marked = format!("@revoked \t web1 ssh-ed25519 {key}");
    assert_eq!(check(&marked, "web1", 22, 1), Verdict::Revoked(at(1)));
}

/// Text that looks like a `known_hosts` file often enough to get past the first checks.
fn almost_known_hosts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"@revoked ".to_vec()),
        Just(b"@cert-authority ".to_vec()),
        Just(b"web1 ".to_vec()),
        Just(b"|1|".to_vec()),
        Just(b"|".to_vec()),
        Just(b"ssh-ed25519 ".to_vec()),
        Just(BASE64_STANDARD.encode(ed(1)).into_bytes()),
        Just(b"AAAA".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"*,!".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_input_panics_and_no_key_is_known_that_is_not_written(
        text in almost_known_hosts(),
        host in "[a-z0-9:*?!,\\[\\]]{0,12}",
        port in any::<u16>(),
    ) {
        let parsed = KnownHosts::parse(Path::new("/kh"), &text);
        let keys = HostKeys::find([&parsed], &HostId::new(&host, port));
        prop_assert!(!matches!(keys.check(&ed(2)), Verdict::Known(_)));
        let _ = keys.check_certificate(&ed(2), &ed(3));
        let _ = keys.key_types();
    }

    #[test]
    fn what_is_added_is_known_afterwards(
        host in "[a-zA-Z0-9.-]{1,40}",
        port in any::<u16>(),
        salt in proptest::option::of(any::<[u8; HASH_LEN]>()),
        before in almost_known_hosts(),
    ) {
        let name = HostId::new(&host, port);
        let mut text = before;
        text.push(b'\n');
        text.extend(new_line(&name, "ssh-ed25519", &ed(200), salt).into_bytes());
        let parsed = KnownHosts::parse(Path::new("/kh"), &text);
        let verdict = HostKeys::find([&parsed], &name).check(&ed(200));
        prop_assert!(matches!(verdict, Verdict::Known(_)), "{verdict:?}");
    }

    #[test]
    fn wildcards_agree_with_a_plain_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
        fn slow(pattern: &[u8], name: &[u8]) -> bool {
            match (pattern.split_first(), name.split_first()) {
                (None, rest) => rest.is_none(),
                (Some((b'*', pattern)), _) => (0..=name.len()).any(|skip| slow(pattern, &name[skip..])),
                (Some((p, pattern)), Some((n, name))) => (*p == b'?' || p == n) && slow(pattern, name),
                (Some(_), None) => false,
            }
        }
        prop_assert_eq!(matches_pattern(pattern.as_bytes(), name.as_bytes()), slow(pattern.as_bytes(), name.as_bytes()));
    }
}
