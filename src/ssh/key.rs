//! Private keys: made, read from files of every common format, or left in the agent.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, PrivateKey, PublicKey};

use super::SshError;

/// Larger than any key.
const MAXIMUM_FILE: u64 = 64 * 1024;
/// How often a person may mistype.
const ATTEMPTS: usize = 3;

/// A new key pair, as OpenSSH writes it.
pub struct KeyPair {
    /// PEM, `BEGIN OPENSSH PRIVATE KEY`.
    pub private: String,
    /// One line, `ssh-ed25519 AAAA… comment`.
    pub public: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Makes an Ed25519 key pair.
pub fn generate_key_pair(comment: &str) -> Result<KeyPair, SshError> {
    let failed = |source| SshError::KeyGeneration { source: Box::new(source) };
    let mut key =
        PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).map_err(failed)?;
    key.set_comment(comment.chars().filter(|c| !c.is_control()).collect::<String>());
    Ok(KeyPair {
        private: key.to_openssh(LineEnding::LF).map_err(failed)?.to_string(),
        public: key.public_key().to_openssh().map_err(failed)?,
    })
}

/// The public half of a private key without a passphrase, as one line with this comment.
pub fn public_half(private: &str, comment: &str) -> Result<String, SshError> {
    let failed = |source| SshError::KeyGeneration { source: Box::new(source) };
    let mut public = PrivateKey::from_openssh(private).map_err(failed)?.public_key().clone();
    public.set_comment(comment.chars().filter(|c| !c.is_control()).collect::<String>());
    public.to_openssh().map_err(failed)
}

/// What a key file turned out to hold.
pub(super) enum KeyFile {
    /// A key that is ready to be used.
    Plain(Box<PrivateKey>),
    /// A key that a passphrase would open. Some formats tell the public half all the same.
    Encrypted(EncryptedKey),
}

/// A key file that a passphrase opens.
pub(super) struct EncryptedKey {
    path: PathBuf,
    text: String,
    pub(super) public: Option<PublicKey>,
}

/// Reads a key file, after checking that nobody but its owner can.
pub(super) fn read_key_file(path: &Path) -> Result<KeyFile, SshError> {
    let text = read_private(path)?;
    let invalid = |reason: &str| SshError::KeyInvalid { path: path.to_owned(), reason: reason.to_owned() };
    if let Some(reason) = recognise_other(&text) {
        return Err(invalid(reason));
    }
    if text.contains("DEK-Info:") && !text.contains("DEK-Info: AES-128-CBC") {
        return Err(invalid("it is encrypted in an old way; `ssh-keygen -p -f` rewrites it"));
    }
    let encrypted =
        |public| KeyFile::Encrypted(EncryptedKey { path: path.to_owned(), text: text.clone(), public });
    if text.contains("BEGIN OPENSSH PRIVATE KEY") {
        let key = PrivateKey::from_openssh(&text).map_err(|error| match error {
            // One in 256 of the curve P-256, which the library takes for cut off.
            ssh_key::Error::Encoding(ssh_key::encoding::Error::Length) => invalid(
                "it is cut off, or its number begins with a zero, which this format leaves out; \
                 `ssh-keygen -p -m PEM -f` rewrites such a key",
            ),
            error => invalid(&error.to_string()),
        })?;
        return Ok(if key.is_encrypted() {
            encrypted(Some(key.public_key().clone()))
        } else {
            KeyFile::Plain(Box::new(key))
        });
    }
    let is_encrypted_putty = text.starts_with("PuTTY-User-Key-File-") && !text.contains("Encryption: none");
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY")
        || text.contains("Proc-Type: 4,ENCRYPTED")
        || is_encrypted_putty
    {
        return Ok(encrypted(None));
    }
    match russh::keys::decode_secret_key(&text, None) {
        Ok(key) => Ok(KeyFile::Plain(Box::new(key))),
        Err(error) => Err(invalid(&error.to_string())),
    }
}

impl EncryptedKey {
    /// Opens the key with a passphrase that somebody is asked for, a few times if need be.
    pub(super) fn open(&self, ask: impl Fn(&Path) -> Option<String>) -> Result<PrivateKey, SshError> {
        for _ in 0..ATTEMPTS {
            let Some(passphrase) = ask(&self.path) else {
                return Err(SshError::KeyEncrypted { path: self.path.clone() });
            };
            // The errors of a wrong passphrase differ from format to format, so they are not looked at.
            if let Ok(key) = russh::keys::decode_secret_key(&self.text, Some(&passphrase)) {
                return Ok(key);
            }
        }
        Err(SshError::KeyPassphrase { path: self.path.clone() })
    }
}

/// The text with clean line ends, since keys travel through mail and Windows.
fn read_private(path: &Path) -> Result<String, SshError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SshError::KeyMissing { path: path.to_owned() },
        _ => SshError::KeyUnreadable { path: path.to_owned(), source },
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let invalid = |reason: &str| SshError::KeyInvalid { path: path.to_owned(), reason: reason.to_owned() };
    if metadata.is_dir() {
        return Err(invalid("it is a directory"));
    }
    if let Some(exposure) = private_files::exposure(&file).map_err(unreadable)? {
        return Err(SshError::KeyTooOpen { path: path.to_owned(), exposure });
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(MAXIMUM_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAXIMUM_FILE {
        return Err(invalid("it is too long for one"));
    }
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is not a text file"))?;
    Ok(text.trim_start_matches('\u{feff}').lines().flat_map(|line| [line.trim_end(), "\n"]).collect())
}

/// Says what a text is that is no private key.
fn recognise_other(text: &str) -> Option<&'static str> {
    let is_private = text.contains("PRIVATE KEY-----") || text.starts_with("PuTTY-User-Key-File-");
    if text.trim().is_empty() {
        Some("it is empty")
    } else if is_private {
        None
    } else if text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.contains("PUBLIC KEY-----") {
        Some("it is a public key")
    } else if text.contains("BEGIN CERTIFICATE-----") {
        Some("it is a certificate")
    } else {
        Some("it has no line `-----BEGIN … PRIVATE KEY-----`")
    }
}

/// The keys that OpenSSH uses by itself, those that exist.
pub(super) fn default_key_files() -> Vec<PathBuf> {
    let Some(home) = std::env::home_dir() else { return Vec::new() };
    let names = ["id_ed25519", "id_ecdsa", "id_rsa"];
    names.iter().map(|name| home.join(".ssh").join(name)).filter(|path| path.exists()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn shell(folder: &Path, script: &str) {
        let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn read(path: &Path) -> Result<PrivateKey, SshError> {
        match read_key_file(path)? {
            KeyFile::Plain(key) => Ok(*key),
            KeyFile::Encrypted(key) => key.open(|_| None),
        }
    }

    #[test]
    fn generated_keys_are_ones_for_openssh() {
        let folder = tempfile::tempdir().unwrap();
        let pair = generate_key_pair("machine mc1\nevil").unwrap();
        assert!(pair.public.ends_with(" machine mc1evil"), "{}", pair.public);
        let path = folder.path().join("key");
        std::fs::write(&path, &pair.private).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let output = Command::new("ssh-keygen").arg("-yf").arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), pair.public);
        assert_eq!(read(&path).unwrap().public_key().to_openssh().unwrap(), pair.public);
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }

    #[test]
    fn every_common_format_is_read() {
        let folder = tempfile::tempdir().unwrap();
        shell(
            folder.path(),
            "umask 077
            for kind in rsa 'ecdsa -b 384' ed25519; do ssh-keygen -q -t $kind -N '' -f openssh-${kind%% *}; done
            openssl genrsa -traditional -out rsa-pkcs1 2048
            openssl genrsa -out rsa-pkcs8 2048
            openssl ecparam -name prime256v1 -genkey -noout -out ec-sec1
            openssl ecparam -name secp384r1 -genkey -out ec-sec1-with-parameters
            openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec-pkcs8
            openssl genpkey -algorithm ED25519 -out ed25519-pkcs8
            sed 's/$/\\r/' openssh-ed25519 > with-crlf
            sed 's/$/  /' rsa-pkcs1 > with-blanks
            rm *.pub",
        );
        let mut count = 0;
        for entry in folder.path().read_dir().unwrap() {
            let path = entry.unwrap().path();
            read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            count += 1;
        }
        assert_eq!(count, 11);
    }

    /// The private number is written without the zeros that it begins with.
    #[test]
    fn a_short_key_of_p256_is_told_how_to_be_read() {
        let folder = tempfile::tempdir().unwrap();
        shell(
            folder.path(),
            "umask 077
            printf 'asn1=SEQUENCE:key\n[key]\nversion=INTEGER:1\n' > form
            ones=$(printf %062d 0 | tr 0 1)
            echo number=FORMAT:HEX,OCTETSTRING:00$ones >> form
            echo curve=EXP:0,OID:prime256v1 >> form
            openssl asn1parse -genconf form -noout -out der
            openssl ec -inform DER -in der -out key
            ssh-keygen -q -p -P '' -N '' -f key",
        );
        let path = folder.path().join("key");
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("`ssh-keygen -p -m PEM -f`"), "{error}");
        shell(folder.path(), "ssh-keygen -p -m PEM -f key -q -P '' -N ''");
        read(&path).unwrap();
    }

    #[test]
    fn encrypted_keys_open_with_their_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        shell(
            folder.path(),
            "umask 077
            ssh-keygen -q -t ed25519 -N secret -f openssh; rm openssh.pub
            openssl genrsa -aes128 -passout pass:secret -out pkcs1 -traditional 2048
            openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -aes256 -pass pass:secret -out pkcs8",
        );
        for name in ["openssh", "pkcs1", "pkcs8"] {
            let path = folder.path().join(name);
            let Ok(KeyFile::Encrypted(key)) = read_key_file(&path) else {
                panic!("{name} is not seen as encrypted")
            };
            assert_eq!(key.public.is_some(), name == "openssh");
            assert!(matches!(key.open(|_| None), Err(SshError::KeyEncrypted { .. })), "{name}");
            let error = key.open(|_| Some("wrong".to_owned())).unwrap_err();
            assert!(matches!(error, SshError::KeyPassphrase { .. }), "{name}: {error}");
            key.open(|_| Some("secret".to_owned())).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        shell(
            folder.path(),
            "umask 077; openssl rsa -in pkcs1 -passin pass:secret -des3 -passout pass:secret -traditional -out des",
        );
        let error = read(&folder.path().join("des")).unwrap_err().to_string();
        assert!(error.contains("ssh-keygen -p"), "{error}");
    }

    #[test]
    fn what_is_no_key_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let pair = generate_key_pair("").unwrap();
        let cut: String = pair
            .private
            .lines()
            .take(2)
            .chain(["-----END OPENSSH PRIVATE KEY-----"])
            .collect::<Vec<_>>()
            .join("\n");
        let path = folder.path().join("key.pub");
        for (text, expected) in [
            ("", "it is empty"),
            (pair.public.as_str(), "it is a public key"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it is a certificate"),
            ("hello", "it has no line"),
            (cut.as_str(), "not a private key that can be used"),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "not a private key that can be used",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, SshError::KeyInvalid { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().unwrap().contains("key`"), "{error:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(matches!(read(&path), Err(SshError::KeyMissing { .. })));
        std::fs::write(&path, generate_key_pair("").unwrap().private).unwrap();
        for mode in [0o644, 0o640, 0o604, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("permissions {mode:04o} for '{}' are too open", path.display())
            );
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        read(&path).unwrap();
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("too long"));
        std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("not a text file"));
        assert!(read(folder.path()).unwrap_err().to_string().contains("is a directory"));
    }
}
