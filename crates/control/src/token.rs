//! The bearer token that the processes and operators share.
//!
//! *Owns* the file: how smartproxy makes it, how everyone reads it, how it is compared. *Never* overwrites a
//! token, follows another user's directory in `/tmp`, or compares in a time that depends on the secret.
//! *Invariant*: a token file appears whole or not at all (it is linked into place after `fsync`).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, rand};
use thiserror::Error;

/// A token file is not larger than this.
const LARGEST: u64 = 4096;
/// A token is not shorter than this.
const SHORTEST: usize = 16;

/// Where the token is. It is read anew whenever it is needed, so replacing the file is enough to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    path: PathBuf,
}

/// The token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// There is no such file (yet).
    #[error("there is no token file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It, or its directory, cannot be read or written.
    #[error("token file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory belongs to somebody else, or others may write to it.
    #[error("directory {} must belong to this user, mode 0700, and be no link", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The file holds no token.
    #[error("token file {} must hold one line of 16 to 4096 visible ASCII characters", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

impl TokenFile {
    /// The token in `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The configured file, or the default place of this user (documentation page "Access").
    pub fn configured(path: Option<&Path>) -> Self {
        let environment = |name: &str| std::env::var(name).ok();
        // proc(5): the owner of /proc/self is the process's effective user.
        let user = std::fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid());
        path.map_or_else(|| Self::new(config::default_token_file(&environment, user)), Self::new)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the token.
    pub fn read(&self) -> Result<Token, TokenError> {
        self.check_directory()?;
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TokenError::Missing { path: self.path.clone() });
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(TokenError::Content { path: self.path.clone() });
            }
            Err(source) => return Err(self.io(source)),
        }
        let token = text.trim_end_matches(['\n', '\r']);
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || token.len() < SHORTEST || text.len() as u64 > LARGEST {
            return Err(TokenError::Content { path: self.path.clone() });
        }
        Ok(Token(token.to_owned()))
    }

    /// Reads the token; makes it where there is none. Only smartproxy does this. Of several that try at once
    /// one makes it, and all read that one.
    pub fn create_if_missing(&self) -> Result<Token, TokenError> {
        match self.read() {
            Err(TokenError::Missing { .. }) => {}
            // The directory may be missing as well: that is found out when it is made.
            other => return other,
        }
        self.create().map_err(|source| self.io(source))?;
        self.read()
    }

    fn create(&self) -> io::Result<()> {
        let directory = self.directory();
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let temporary = directory.join(format!(".control.token.{}", random_hex(8)?));
        let linked =
            write_new(&temporary, &random_hex(32)?).and_then(|()| std::fs::hard_link(&temporary, &self.path));
        let removed = std::fs::remove_file(&temporary);
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => removed.and_then(|()| File::open(directory)?.sync_all()),
        }
    }

    /// In a place where everybody may make directories, ours must be ours.
    fn check_directory(&self) -> Result<(), TokenError> {
        let directory = self.directory();
        if !is_fallback(directory) {
            return Ok(());
        }
        let found = match std::fs::symlink_metadata(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TokenError::Missing { path: self.path.clone() });
            }
            Err(source) => return Err(self.io(source)),
            Ok(found) => found,
        };
        let ours = found.uid() == rustix::process::geteuid().as_raw();
        if found.is_dir() && ours && found.mode() & 0o777 == 0o700 {
            Ok(())
        } else {
            Err(TokenError::Directory { path: directory.to_owned() })
        }
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn io(&self, source: io::Error) -> TokenError {
        TokenError::Io { path: self.path.clone(), source }
    }
}

impl Token {
    /// Is this the token? The time that takes says nothing about how much of it is right.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_bytes(), presented).is_ok()
    }

    /// The token, for whoever has to present it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Is this `/tmp/smartproxy-UID`, of any user?
fn is_fallback(directory: &Path) -> bool {
    let name = directory.strip_prefix("/tmp").ok().and_then(Path::to_str);
    let uid = name.and_then(|name| name.strip_prefix("smartproxy-"));
    uid.is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit()))
}

/// So many random bytes, as twice as many digits.
fn random_hex(bytes: usize) -> io::Result<String> {
    let mut random = vec![0_u8; bytes];
    rand::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
    Ok(random
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_token_is_made_once_and_only_its_owner_may_read_it() {
        let place = tempfile::tempdir().unwrap();
        let file = TokenFile::new(place.path().join("run/control.token"));
        assert!(matches!(file.read(), Err(TokenError::Missing { .. })), "reading makes nothing");
        let made = file.create_if_missing().unwrap();
        assert_eq!((mode(file.path()), mode(&place.path().join("run"))), (0o600, 0o700));
        assert_eq!(made.reveal().len(), 64);
        assert_eq!(file.create_if_missing().unwrap(), made, "an existing token is not overwritten");
        assert_eq!(file.read().unwrap(), made);
        let left: Vec<_> = std::fs::read_dir(place.path().join("run")).unwrap().collect();
        assert_eq!(left.len(), 1, "the temporary file is gone");
    }

    #[test]
    fn of_several_that_start_at_once_all_end_up_with_one_token() {
        let place = tempfile::tempdir().unwrap();
        let file = TokenFile::new(place.path().join("control.token"));
        let made: Vec<Token> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| file.create_if_missing().unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(made.iter().all(|token| *token == made[0]));
    }

    #[test]
    fn what_is_no_token_is_refused_with_words() {
        let place = tempfile::tempdir().unwrap();
        let file = TokenFile::new(place.path().join("control.token"));
        for content in [
            &b""[..],
            b"short\n",
            b"two words here, long",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &[b'x'; 5000],
        ] {
            std::fs::write(file.path(), content).unwrap();
            let error = file.read().unwrap_err();
            assert!(matches!(error, TokenError::Content { .. }), "{error}");
        }
        std::fs::write(file.path(), "an-operators-own-secret\r\n").unwrap();
        assert_eq!(file.read().unwrap().reveal(), "an-operators-own-secret");
    }

    #[test]
    fn the_fallback_in_tmp_must_be_ours_alone() {
        let name = format!("/tmp/smartproxy-{}{}", u32::MAX, std::process::id());
        let directory = Path::new(&name);
        let file = TokenFile::new(directory.join("control.token"));
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), directory).unwrap();
        let linked = file.create_if_missing();
        std::fs::remove_file(directory).unwrap();
        assert!(matches!(linked, Err(TokenError::Directory { .. })), "a link leads anywhere");
        std::fs::create_dir(directory).unwrap();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let open = file.create_if_missing();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        let ours = file.create_if_missing();
        std::fs::remove_dir_all(directory).unwrap();
        assert!(matches!(open, Err(TokenError::Directory { .. })), "others may look");
        assert!(ours.is_ok());
    }

    #[test]
    fn only_the_token_matches_and_it_is_not_shown() {
        let token = Token("0123456789abcdef".to_owned());
        assert!(token.matches(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdeg", b"0123456789abcdef0"] {
            assert!(!token.matches(wrong));
        }
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
