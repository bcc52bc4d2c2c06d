use super::*;
use crate::model::{ArchiveKind, tree::TreeFacts};

fn time(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        app: AppName::new("shop").unwrap(),
        file_name: "shop.tar".into(),
        digest: Digest([7; 32]),
        size: 1000,
        archive: ArchiveKind::Tar,
        tree: None,
    }
}

fn statement(created: &str, expires: Option<&str>) -> Statement {
    let expires = expires.map(|text| text.parse().unwrap());
    Statement::new(&manifest(), "2.4.1".parse().unwrap(), created.parse().unwrap(), expires)
}

#[test]
fn a_statement_is_read_as_it_was_written() {
    let whole = statement("2026-11-20T10:00:00Z", Some("2026-12-20T10:00:00Z"));
    let text = whole.to_text();
    assert_eq!(Statement::read(&text).unwrap(), whole);
    assert!(text.contains("\"created\": \"2026-11-20T10:00:00Z\""), "{text}");
    for (bad, says) in [
        (text.replace("\"fleetdrop_manifest\": 1", "\"fleetdrop_manifest\": 2"), "has format 2"),
        (text.replace("\"size\"", "\"length\""), "can't be read"),
        (text.replace("2.4.1", "2 4"), "can't be read"),
        (text.replace("10:00:00Z", "25:00:00Z"), "can't be read"),
        (" ".repeat(LONGEST_STATEMENT) + &text, "longer than"),
        (String::new(), "can't be read"),
    ] {
        let error = Statement::read(&bad).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}

#[test]
fn only_that_artifact_is_admitted_and_only_in_its_time() {
    let signed = statement("2026-11-20T10:00:00Z", Some("2026-11-21T10:00:00Z"));
    let now = time("2026-11-20T12:00:00Z");
    assert_eq!(signed.admit(&manifest(), now), Ok(()));
    let other_app = Manifest { app: AppName::new("blog").unwrap(), ..manifest() };
    assert!(matches!(signed.admit(&other_app, now), Err(Refusal::OtherApp { .. })));
    let tree = TreeFacts { blob: Digest([1; 32]), entries: 3, on_disk: 1 };
    for other in [
        Manifest { digest: Digest([8; 32]), ..manifest() },
        Manifest { size: 1001, ..manifest() },
        Manifest { tree: Some(tree), archive: ArchiveKind::Directory, ..manifest() },
    ] {
        assert!(matches!(signed.admit(&other, now), Err(Refusal::OtherArtifact { .. })));
    }
    for (now, admitted) in [
        ("2026-11-20T09:54:59Z", false),
        ("2026-11-20T09:55:00Z", true),
        ("2026-11-21T09:59:59Z", true),
        ("2026-11-21T10:00:00Z", false),
    ] {
        assert_eq!(signed.admit(&manifest(), time(now)).is_ok(), admitted, "{now}");
    }
}

#[test]
fn nothing_older_follows() {
    let newest = Newest::from(&statement("2026-11-20T10:00:00Z", None));
    assert_eq!(statement("2026-11-20T10:00:00Z", None).follows(&newest), Ok(()));
    assert_eq!(statement("2026-11-20T10:00:01Z", None).follows(&newest), Ok(()));
    let refusal = statement("2026-11-20T09:59:59Z", None).follows(&newest).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "version 2.4.1, signed at 2026-11-20T09:59:59Z, is older than 2.4.1, signed at 2026-11-20T10:00:00Z, which was live here"
    );
}

#[test]
fn keys_are_read_in_both_forms() {
    let minisign = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    assert_eq!(minisign.parse::<TrustedKey>().unwrap().to_string(), "minisign key E7620F1842B4E81F");
    let ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github";
    let key: TrustedKey = ssh.parse().unwrap();
    assert_eq!(key.to_string(), "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU");
    assert_eq!(key.as_str().parse::<TrustedKey>().unwrap(), key);
    for bad in
        ["", "RWQf6LRC", "hello", &minisign.replace("RW", "AA"), "ssh-ed25519 AAAA", &ssh.replace("ssh-ed25519", "ssh-rsa")]
    {
        assert_eq!(bad.parse::<TrustedKey>(), Err(TrustedKeyError::Unknown), "{bad}");
    }
    let p521 = "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjE=";
    assert_eq!(p521.parse::<TrustedKey>(), Err(TrustedKeyError::Type("ecdsa-sha2-nistp521".into())));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_readers_panic(text in "\\PC*", bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Statement::read(&text);
        let _ = text.parse::<TrustedKey>();
        let mut reader = Reader::new(&bytes);
        while reader.clone().string().is_some() {
            reader.string();
        }
        let _ = (reader.clone().positive(), reader.clone().text(), reader.number());
    }
}
