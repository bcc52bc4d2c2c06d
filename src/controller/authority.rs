//! The run's certificate authority: made for one run in this process's memory, gone with it, never written.
//!
//! Promises: every agent gets a key and a certificate of its own, which only this run's processes believe; only the controller's has the name
//! that hosts expect of seed and tracker; who connects without a certificate learns neither run nor host from what it is shown.
//!
//! Certificates count from an hour before the run to [`VALID`] after it began, by the authority's own time, which agents are told with theirs: the
//! clocks of hosts play no part. That is a bound for a key that leaks; what ends a certificate is the run's end, for nobody who believes it is
//! left then.

use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519,
};

use crate::{
    model::Identity,
    swarm::{Tls, TlsError},
};

/// How long certificates count: longer than any run should wait for its operator.
const VALID: Duration = Duration::from_secs(7 * 24 * 3600);
/// How much before the run's beginning.
const BEFORE: Duration = Duration::from_secs(3600);

/// Says why a run has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One could not be made.
    #[error("the run's certificates can't be made")]
    Make(#[from] rcgen::Error),
    /// The controller's own is no good.
    #[error(transparent)]
    Use(#[from] TlsError),
}

/// Makes the certificates of one run.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    /// When it was made, since 1970, and by a clock that nobody sets.
    made: (Duration, Instant),
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl Authority {
    /// Makes a new authority.
    pub fn new() -> Result<Self, AuthorityError> {
        // Before 1970 any time is as good.
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(BEFORE);
        let made = (since_1970, Instant::now());
        let mut params = params(since_1970, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.self_signed(&key)?.der().to_vec();
        Ok(Self { issuer: Issuer::new(params, key), certificate, made })
    }

    /// Makes what the controller's own listeners show.
    pub fn controller(&self) -> Result<Tls, AuthorityError> {
        Ok(Tls::new(&self.issue(&[Identity::CONTROLLER, Identity::MEMBER])?)?)
    }

    /// Makes what one agent shows.
    pub fn member(&self) -> Result<Identity, AuthorityError> {
        self.issue(&[Identity::MEMBER])
    }

    fn issue(&self, names: &[&str]) -> Result<Identity, AuthorityError> {
        let (made, at) = self.made;
        let mut params = params(made, names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        let authority = self.certificate.clone();
        Ok(Identity { authority, certificate, key: key.serialize_der(), now: made + at.elapsed() })
    }
}

/// Returns what every certificate of a run that began then says. Those who connect see it, whoever they are: no name of a run or a host.
fn params(began: Duration, names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let began = SystemTime::UNIX_EPOCH + began;
    (params.not_before, params.not_after) = ((began - BEFORE).into(), (began + VALID).into());
    Ok(params)
}
