//! Against the tools whose signatures these are: `ssh-keygen` and `minisign`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::*;

const TEXT: &str = "{\"fleetdrop_manifest\": 1}\n";
const KINDS: [&[&str]; 5] = [
    &["-t", "ed25519"],
    &["-t", "ecdsa", "-b", "256"],
    &["-t", "ecdsa", "-b", "384"],
    &["-t", "rsa", "-b", "2048"],
    &["-t", "rsa", "-b", "4096"],
];

fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program).args(arguments).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("can't start {program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with a text to sign.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("text"), TEXT).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes an OpenSSH key and returns its public half.
    fn ssh_key(&self, name: &str, kind: &[&str]) -> TrustedKey {
        run("ssh-keygen", &[&["-q", "-N", "", "-C", "ada@example.com", "-f", name], kind].concat(), self.0.path());
        self.read(&format!("{name}.pub")).parse().unwrap()
    }

    /// Signs the text for that purpose.
    fn ssh_sign(&self, key: &str, namespace: &str) -> String {
        let _ = fs::remove_file(self.path("text.sig"));
        run("ssh-keygen", &["-q", "-Y", "sign", "-n", namespace, "-f", key, "text"], self.0.path());
        self.read("text.sig")
    }

    /// Makes a minisign key without a password.
    fn minisign_key(&self, name: &str) -> TrustedKey {
        let [public, secret] = ["pub", "key"].map(|ending| format!("{name}.{ending}"));
        run("minisign", &["-G", "-W", "-p", &public, "-s", &secret], self.0.path());
        self.read(&public).lines().nth(1).unwrap().parse().unwrap()
    }

    fn minisign(&self, name: &str, more: &[&str]) -> String {
        let secret = format!("{name}.key");
        run("minisign", &[&["-S", "-s", &secret, "-m", "text", "-x", "text.minisig"], more].concat(), self.0.path());
        self.read("text.minisig")
    }
}

#[test]
fn signatures_of_openssh_keys_of_every_type_count() {
    for kind in KINDS {
        let desk = Desk::new();
        let (key, other) = (desk.ssh_key("key", kind), desk.ssh_key("other", kind));
        // Numbers of ECDSA differ in length, so several.
        for _ in 0..8 {
            let signature = desk.ssh_sign("key", "fleetdrop");
            let keys = [other.clone(), key.clone()];
            assert_eq!(verify(TEXT.as_bytes(), &signature, &keys).unwrap(), &key, "{kind:?}");
            let changed = verify(b"something else", &signature, &keys).unwrap_err();
            assert!(matches!(&changed, SignatureError::Wrong(who) if *who == key.to_string()), "{kind:?}: {changed}");
            let stranger = verify(TEXT.as_bytes(), &signature, std::slice::from_ref(&other)).unwrap_err();
            assert!(matches!(&stranger, SignatureError::Stranger(who) if *who == key.to_string()), "{kind:?}: {stranger}");
        }
        let purpose = verify(TEXT.as_bytes(), &desk.ssh_sign("key", "git"), &[key]).unwrap_err();
        assert_eq!(purpose.to_string(), "the signature was made for `git`, not for `fleetdrop`");
    }
}

#[test]
fn signatures_of_minisign_count_in_both_forms() {
    let desk = Desk::new();
    let (key, other) = (desk.minisign_key("ada"), desk.minisign_key("bob"));
    for more in [&["-t", "shop 2.4.1"] as &[_], &["-l"]] {
        let signature = desk.minisign("ada", more);
        assert_eq!(verify(TEXT.as_bytes(), &signature, &[other.clone(), key.clone()]).unwrap(), &key);
        assert!(matches!(verify(b"x", &signature, std::slice::from_ref(&key)), Err(SignatureError::Wrong(_))));
        assert!(matches!(verify(TEXT.as_bytes(), &signature, std::slice::from_ref(&other)), Err(SignatureError::Stranger(_))));
        let commented = signature.replace("trusted comment: ", "trusted comment: not ");
        assert!(commented.contains("trusted comment: not "));
        assert!(matches!(verify(TEXT.as_bytes(), &commented, std::slice::from_ref(&key)), Err(SignatureError::Wrong(_))));
    }
}

/// A key of a FIDO token needs a token; this one is in software, by OpenSSH's own description of what a token signs.
#[test]
fn signatures_of_fido_tokens_count_if_somebody_touched_them() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use sha2::{Digest as _, Sha256, Sha512};

    let field = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let kind = b"sk-ssh-ed25519@openssh.com";
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let blob = [field(kind), field(pair.public_key().as_ref()), field(b"ssh:")].concat();
    let key: TrustedKey = format!("sk-ssh-ed25519@openssh.com {}", BASE64_STANDARD.encode(&blob)).parse().unwrap();
    let hash = Sha512::digest(TEXT);
    let data = [b"SSHSIG".to_vec(), field(b"fleetdrop"), field(b""), field(b"sha512"), field(&hash)].concat();
    for (flags, counts) in [(1_u8, true), (5, true), (0, false)] {
        let rest = [&[flags][..], &9_u32.to_be_bytes()].concat();
        let signed = [Sha256::digest(b"ssh:").as_slice(), &rest, &Sha256::digest(&data)].concat();
        let signature = [field(kind), field(pair.sign(&signed).as_ref()), rest].concat();
        let whole = [
            b"SSHSIG".to_vec(),
            1_u32.to_be_bytes().to_vec(),
            field(&blob),
            field(b"fleetdrop"),
            field(b""),
            field(b"sha512"),
            field(&signature),
        ];
        let text = format!("{}\n{}\n-----END SSH SIGNATURE-----\n", ssh::BEGIN, BASE64_STANDARD.encode(whole.concat()));
        assert_eq!(verify(TEXT.as_bytes(), &text, std::slice::from_ref(&key)).is_ok(), counts, "flags {flags}");
    }
}

#[test]
fn what_is_no_signature_is_told() {
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3".parse().unwrap();
    for (text, says) in [
        ("", "neither minisign's nor OpenSSH's"),
        ("-----BEGIN PGP SIGNATURE-----", "neither minisign's nor OpenSSH's"),
        ("untrusted comment: x", "second line"),
        ("untrusted comment: x\nAAAA\ntrusted comment: y\nAAAA", "second line is too short"),
        ("-----BEGIN SSH SIGNATURE-----\nAAAA", "last line is missing"),
        ("-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----", "cut short"),
        (&"x".repeat(LONGEST_SIGNATURE + 1), "too long"),
    ] {
        let error = verify(TEXT.as_bytes(), text, std::slice::from_ref(&key)).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// One byte of a sound signature is another.
    #[test]
    fn no_change_makes_it_panic_or_count(at in any::<prop::sample::Index>(), byte in any::<u8>(), minisign in any::<bool>()) {
        static SIGNED: std::sync::OnceLock<[(TrustedKey, String); 2]> = std::sync::OnceLock::new();
        let signed = SIGNED.get_or_init(|| {
            let desk = Desk::new();
            let keys = (desk.ssh_key("key", KINDS[1]), desk.minisign_key("ada"));
            [(keys.0, desk.ssh_sign("key", "fleetdrop")), (keys.1, desk.minisign("ada", &[]))]
        });
        let (key, signature) = &signed[usize::from(minisign)];
        let mut bytes = signature.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let counts = verify(TEXT.as_bytes(), &text, std::slice::from_ref(key)).is_ok();
        // Blanks and the untrusted comment are not signed.
        let same = |text: &str| -> String {
            let body = if minisign { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
            body.split_ascii_whitespace().collect()
        };
        prop_assert!(!counts || same(&text) == same(signature), "{text}");
    }
}
