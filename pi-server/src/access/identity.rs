//! Who calls: bearer tokens from a file that stores only their hashes, or the names in client certificates.
//!
//! A line of the file is `NAME blake3:HASH` and, where this identity's limits differ from the server's, `sessions=N`,
//! `calls-per-minute=N`, `inferences-per-day=N`, `bytes-per-day=N`; `#` begins a comment. `pi-server token new NAME` makes one.
//! The file is read again when it changes.
//!
//! Security: a token is 256 random bits, so a plain hash of it tells nothing and needs no salt. All entries are compared, in
//! constant time. A missing and a wrong token get the same answer.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rand::TryRngCore as _;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use tonic::{Extensions, Status, metadata::MetadataMap};

use crate::access::connection::Peer;
use crate::access::limits::{Account, Accounts, Quota};
use crate::access::watch::Watched;
use crate::error::ServeError;

/// What every token starts with, so that it is known for what it is where it should not be.
const TOKEN_PREFIX: &str = "pi-";
const HASH_PREFIX: &str = "blake3:";
/// Domain of the hash.
const CONTEXT: &str = "private inference, bearer token, 2026";
/// The identity of who has none, where none is asked for.
const ANONYMOUS: &str = "anonymous";

/// One line of the file.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    hash: [u8; 32],
    quota: Quota,
}

/// The file of tokens.
pub struct Tokens {
    file: Watched,
    entries: RwLock<Vec<Entry>>,
}

/// A new token for `name`, and its line for the file.
///
/// # Errors
/// [`ServeError::Token`] for a name that cannot stand in the file, or without the system's randomness.
pub fn new_token(name: &str) -> Result<(String, String), ServeError> {
    check_name(name).map_err(ServeError::Token)?;
    let mut secret = [0; 32];
    let random = rand::rngs::OsRng.try_fill_bytes(&mut secret);
    random.map_err(|e| ServeError::Token(format!("this system gives no randomness: {e}")))?;
    let token = format!(
        "{TOKEN_PREFIX}{}",
        blake3::Hash::from_bytes(secret).to_hex()
    );
    let hash = blake3::Hash::from_bytes(hash(&token)).to_hex();
    let line = format!("{name} {HASH_PREFIX}{hash}");
    Ok((token, line))
}

fn hash(token: &str) -> [u8; 32] {
    blake3::derive_key(CONTEXT, token.as_bytes())
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) || name == ANONYMOUS {
        return Err(format!(
            "'{name}' is not a name for an identity: write at most 64 letters, digits and . _ - @"
        ));
    }
    Ok(())
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ServeError::Tokens`] naming the line.
    pub fn load(path: &Path) -> Result<Self, ServeError> {
        let file = Watched::new([path.to_owned()]);
        let entries = RwLock::new(read(path)?);
        Ok(Self { file, entries })
    }

    /// Reads the file again if it has changed. What cannot be read leaves the old entries in place.
    ///
    /// # Errors
    /// [`ServeError::Tokens`] naming the line.
    pub fn refresh(&self) -> Result<bool, ServeError> {
        let Some(stamps) = self.file.changed() else {
            return Ok(false);
        };
        let entries = read(self.file.first())?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        self.file.accept(stamps);
        Ok(true)
    }

    fn quota_of(&self, name: &str) -> Option<Quota> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut entries = entries.iter();
        entries.find(|e| e.name == name).map(|e| e.quota)
    }

    fn find(&self, token: &str) -> Option<(String, Quota)> {
        let hash = hash(token);
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = u32::MAX;
        for (i, entry) in (0u32..).zip(entries.iter()) {
            found.conditional_assign(&i, entry.hash.ct_eq(&hash));
        }
        let entry = entries.get(found as usize)?;
        Some((entry.name.clone(), entry.quota))
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, ServeError> {
    let fail = |reason| ServeError::Tokens {
        path: path.to_owned(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot read: {e}")))?;
    let mut entries: Vec<Entry> = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let fail = |reason: String| fail(format!("line {number}: {reason}"));
        let entry = parse(line).map_err(fail)?;
        if entries.iter().any(|e| e.hash == entry.hash) {
            return Err(fail("this hash stands in the file twice".into()));
        }
        let same = |e: &&Entry| e.name == entry.name;
        if entries
            .iter()
            .find(same)
            .is_some_and(|e| e.quota != entry.quota)
        {
            let name = entry.name;
            return Err(fail(format!(
                "all lines of '{name}' must have the same limits"
            )));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn parse(line: &str) -> Result<Entry, String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    check_name(name)?;
    let hash = words.next().and_then(|w| w.strip_prefix(HASH_PREFIX));
    let hash = hash.and_then(|h| blake3::Hash::from_hex(h).ok()).ok_or_else(|| {
        format!("after the name comes {HASH_PREFIX} and 64 hexadecimal digits, never the token itself; `pi-server token new {name}` makes a line")
    })?;
    let mut quota = Quota::default();
    for word in words {
        let bad = || {
            format!(
                "'{word}' is none of sessions=N, calls-per-minute=N, inferences-per-day=N, bytes-per-day=N"
            )
        };
        let (key, value) = word.split_once('=').ok_or_else(bad)?;
        let n: u64 = value.parse().map_err(|_| bad())?;
        match key {
            "sessions" => quota.sessions = Some(usize::try_from(n).map_err(|_| bad())?),
            "calls-per-minute" => {
                let n = u32::try_from(n).ok().and_then(std::num::NonZeroU32::new);
                quota.calls_per_minute = Some(n.ok_or_else(bad)?);
            }
            "inferences-per-day" => quota.inferences_per_day = Some(n),
            "bytes-per-day" => quota.bytes_per_day = Some(n),
            _ => return Err(bad()),
        }
    }
    Ok(Entry {
        name: name.to_owned(),
        hash: *hash.as_bytes(),
        quota,
    })
}

/// Who may call, and on which account.
#[derive(Default)]
pub struct Identities {
    /// Without them, everybody may call whom TLS lets through.
    pub tokens: Option<Arc<Tokens>>,
    /// For identities whose line says nothing else.
    pub quota: Quota,
    accounts: Accounts,
    /// Held for reading while a token is looked up and its account found, for writing while both change: else an account
    /// that is being taken back could come back by a call that was looked up before.
    turn: RwLock<()>,
}

impl Identities {
    /// Identities with these tokens and this quota.
    #[must_use]
    pub fn new(tokens: Option<Arc<Tokens>>, quota: Quota) -> Self {
        Self {
            tokens,
            quota,
            accounts: Accounts::default(),
            turn: RwLock::default(),
        }
    }

    /// Reads the tokens again if their file has changed. What they say of an identity holds at once, for its open sessions too.
    ///
    /// # Errors
    /// As [`Tokens::refresh`].
    pub fn refresh(&self) -> Result<bool, ServeError> {
        let Some(tokens) = &self.tokens else {
            return Ok(false);
        };
        let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let changed = tokens.refresh()?;
        if changed {
            self.accounts
                .revise(|name| Some(tokens.quota_of(name)?.over(self.quota)));
        }
        Ok(changed)
    }

    /// The caller's account: by its token if tokens are asked for, else by its certificate, else that of all together.
    ///
    /// # Errors
    /// UNAUTHENTICATED for a missing or a wrong token, RESOURCE_EXHAUSTED for too many calls.
    pub fn identify(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Arc<Account>, Status> {
        let turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        let account = match &self.tokens {
            Some(tokens) => {
                let (name, quota) = bearer(metadata)
                    .and_then(|token| tokens.find(token))
                    .ok_or_else(|| Status::unauthenticated("this server asks for a token and this one is missing or unknown; ask its operator for one and give it with --token-file or PI_TOKEN"))?;
                self.accounts.find(&name, quota.over(self.quota))
            }
            None => {
                let peer = extensions
                    .get::<Peer>()
                    .and_then(|p| p.certificate.as_deref());
                self.accounts.find(peer.unwrap_or(ANONYMOUS), self.quota)
            }
        };
        drop(turn);
        account.call()?;
        Ok(account)
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tonic::Code;

    fn with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn asks(token: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", token.parse().unwrap());
        metadata
    }

    #[test]
    fn a_token_is_known_by_its_hash_alone_and_brings_its_quota() {
        let (token, line) = new_token("alice").unwrap();
        let (other, _) = new_token("alice").unwrap();
        assert!(!line.contains(&token[TOKEN_PREFIX.len()..]));
        let (_dir, path) = with(&format!("# who\n\n{line} sessions=2 # two\n"));
        let quota = Quota {
            bytes_per_day: Some(9),
            ..Quota::default()
        };
        let identities = Identities::new(Some(Arc::new(Tokens::load(&path).unwrap())), quota);
        let identify = |metadata| identities.identify(&metadata, &Extensions::default());
        assert_eq!(
            identify(asks(&format!("Bearer {token}"))).unwrap().name(),
            "alice"
        );
        for wrong in [
            MetadataMap::new(),
            asks(&format!("Bearer {other}")),
            asks(&token),
            asks("Bearer"),
            asks("Bearer "),
            asks(&format!("Basic {token}")),
        ] {
            let status = identify(wrong).err().unwrap();
            assert_eq!(status.code(), Code::Unauthenticated);
            assert!(!status.message().contains(&token));
        }
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_not() {
        let (token, line) = new_token("alice").unwrap();
        let (_dir, path) = with("");
        let tokens = Tokens::load(&path).unwrap();
        assert!(tokens.find(&token).is_none() && !tokens.refresh().unwrap());
        std::fs::write(&path, &line).unwrap();
        assert!(tokens.refresh().unwrap() && tokens.find(&token).is_some());
        std::fs::write(&path, "alice").unwrap();
        let said = tokens.refresh().unwrap_err().to_string();
        assert!(
            said.contains("line 1") && tokens.find(&token).is_some(),
            "{said}"
        );
        std::fs::write(&path, "# nobody any more").unwrap();
        assert!(tokens.refresh().unwrap() && tokens.find(&token).is_none());
    }

    #[test]
    fn lines_that_are_wrong_are_refused_by_number() {
        let (token, line) = new_token("a").unwrap();
        for (text, said) in [
            (format!("a {token}"), "never the token itself"),
            (format!("{line} sessions=many"), "sessions=many"),
            (format!("{line} calls-per-minute=0"), "calls-per-minute=0"),
            (format!("{line} seats=1"), "seats=1"),
            (format!("{line}\n{line}"), "line 2"),
            (
                format!("{line}\n{} sessions=1", new_token("a").unwrap().1),
                "same limits",
            ),
            (line.replace("a ", "a/b "), "a/b"),
        ] {
            let (_dir, path) = with(&text);
            let error = Tokens::load(&path).err().unwrap().to_string();
            assert!(
                error.contains(said) && !error.contains(&token[3..]),
                "{error}"
            );
        }
        assert!(new_token("").is_err() && new_token("anonymous").is_err());
    }
}
