//! Prepared inferences on this machine's disk, for a later start of the program: encrypted, and each given out once.
//!
//! A folder for each server and model holds one file for each inference, sealed by XChaCha20-Poly1305 under a key that is made at
//! first use beside them (`key`, mode 0600). The name of a file says until when the server keeps its half and how many were
//! prepared together; both, the server and the model are bound to the contents.
//!
//! Security: an inference that is used twice tells the server the difference of two images. So a file is read, then removed, which
//! one process alone can do, and its removal made durable before anything of it is returned. Nothing is written in the clear.
//! Do not copy the folder, and put no older copy back: the server gives its half out once, which is the second guard.

mod pause;
mod place;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use pi_model::PublicPlan;
use pi_protocol::client::Prepared;
use pi_protocol::kept::KeepError;
use rand::TryRngCore as _;
use zeroize::Zeroizing;

use crate::error::ClientError;
use crate::observer::Note;
use pause::Pause;

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// Ends the names of inferences that wait.
const WAITING: &str = "kept";
/// An inference is left alone so long before the server forgets it.
const MARGIN_S: u64 = 60;

/// The inferences of one server's model in a folder.
pub struct Store {
    folder: PathBuf,
    cipher: XChaCha20Poly1305,
    /// Server and model.
    place: String,
    /// Names of files that were found to be for another plan than the server's: left alone by this process.
    of_other_plans: Mutex<HashSet<String>>,
    pause: Pause,
}

/// What [`Store::take`] found.
#[derive(Debug, Default)]
pub struct Taken {
    /// The next inference, if there is one.
    pub prepared: Option<Prepared>,
    /// Files that were removed on the way: damaged, or of another key.
    pub n_unusable: usize,
}

/// Inferences of one batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// How many wait.
    pub n: usize,
    /// How many were prepared together, which a session must be opened for.
    pub batch: usize,
}

/// What the name of a file says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    /// Seconds from 1970.
    expires_s: u64,
    batch: usize,
    name: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.folder.display())
    }
}

/// Where inferences are kept unless the user says otherwise: `pi-client` in the user's folder for data.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty());
    let home = || Some(Path::new(&std::env::var_os("HOME")?).join(".local/share"));
    Some(data.map(PathBuf::from).or_else(home)?.join("pi-client"))
}

impl Store {
    /// The inferences for `model` of the server at `url` under `dir`. Makes folder and key where there are none.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn open(dir: &Path, url: &str, model: &str) -> Result<Self, ClientError> {
        private_folder(dir)?;
        let key = load_key(&dir.join("key"))?;
        let place = format!("{}\n{model}", place::spelled(url));
        let name = &blake3::hash(place.as_bytes()).to_hex()[..32];
        let folder = dir.join(name);
        private_folder(&folder)?;
        place::write_label(dir, name, &place);
        Ok(Self {
            pause: Pause::at(folder.join("paused")),
            folder,
            cipher: XChaCha20Poly1305::new((&*key).into()),
            place,
            of_other_plans: Mutex::default(),
        })
    }

    /// The same, if anything was ever kept in `dir`; makes nothing.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn open_if_there(dir: &Path, url: &str, model: &str) -> Result<Option<Self>, ClientError> {
        match dir.join("key").exists() {
            true => Self::open(dir, url, model).map(Some),
            false => Ok(None),
        }
    }

    /// Addresses of other servers for whose model of this name inferences wait under `dir`, and how many. They may be other names of
    /// the same service, which only the user knows.
    #[must_use]
    pub fn elsewhere(dir: &Path, url: &str, model: &str) -> Vec<(String, usize)> {
        place::elsewhere(dir, url, model)
    }

    /// Writes an inference down, which the server keeps for so long from now on.
    ///
    /// # Errors
    /// [`ClientError::Store`]; the inference is lost then.
    pub fn put(
        &self,
        prepared: Prepared,
        plan: &PublicPlan,
        kept_for: Duration,
    ) -> Result<(), ClientError> {
        let bytes = prepared.into_secret_bytes(plan)?;
        let expires_s = now_s().saturating_add(kept_for.as_secs());
        let label: [u8; 12] = random(&self.folder)?;
        let label: String = label.iter().map(|b| format!("{b:02x}")).collect();
        let name = format!("{expires_s}-{}-{label}.{WAITING}", plan.batch());
        let nonce: [u8; NONCE_BYTES] = random(&self.folder)?;
        let payload = Payload {
            msg: &bytes,
            aad: &self.associated(&name),
        };
        let path = self.folder.join(&name);
        let fail = |e: std::io::Error| failed(&path, format!("cannot write it: {e}"));
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| failed(&path, "it is too long to be sealed"))?;
        let unfinished = path.with_extension("new");
        let written = private_file(&unfinished).and_then(|mut file| {
            file.write_all(&nonce)?;
            file.write_all(&sealed)?;
            file.sync_all()
        });
        if let Err(e) = written {
            // It may not even be there.
            let _ = fs::remove_file(&unfinished);
            return Err(fail(e));
        }
        fs::rename(&unfinished, &path).map_err(fail)?;
        self.sync()
    }

    /// How many inferences wait.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn n_waiting(&self) -> Result<usize, ClientError> {
        Ok(self.items()?.len())
    }

    /// The inferences that one session can use: those of the batch size of the first to expire that `fits`.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn waiting(&self, fits: impl Fn(usize) -> bool) -> Result<Option<Waiting>, ClientError> {
        let items = self.usable()?;
        let batch = items
            .iter()
            .map(|item| item.batch)
            .find(|&batch| fits(batch));
        let n = |batch| items.iter().filter(|item| item.batch == batch).count();
        Ok(batch.map(|batch| Waiting { n: n(batch), batch }))
    }

    /// Takes out the next inference of this plan. It is gone from the disk when this returns; what is damaged or expired is removed
    /// on the way. What is for another plan stays until it expires: the server may show that plan again, and then has the halves.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn take(&self, plan: &PublicPlan) -> Result<Taken, ClientError> {
        let mut taken = Taken::default();
        for item in self.usable()? {
            if item.batch != plan.batch() {
                continue;
            }
            let Some(sealed) = self.read(&item.name)? else {
                continue;
            };
            let opened = self.unseal(&item.name, &sealed, plan);
            if matches!(opened, Err(KeepError::OtherModel)) {
                self.skipped().insert(item.name);
                continue;
            }
            // Who removes the file has the inference, and nobody else: what was only looked at is never used.
            if !self.claim(&item.name)? {
                continue;
            }
            match opened {
                Ok(prepared) => {
                    taken.prepared = Some(prepared);
                    break;
                }
                Err(_) => taken.n_unusable += 1,
            }
        }
        Ok(taken)
    }

    /// Decides what becomes of the others when the server did not give its half of the inference that was taken last: to be called
    /// with the error of [`crate::blocking::Session::infer_with`]. Returns what the user should know; the session goes on then, and
    /// the image can be answered with another inference. `None` if the error is of another kind.
    ///
    /// Nothing is removed that the server may still have, with one exception:
    /// - It had this half, for other weights or damaged ([`KeepError::OtherModel`], [`KeepError::Damaged`]): the others stay.
    /// - It could not look ([`KeepError::Unavailable`], [`KeepError::Full`]): the others stay, and are left alone for a while
    ///   ([`Self::is_paused`]).
    /// - It does not have this half ([`KeepError::NotThere`]): all are removed. Its store was replaced, and then they are of no
    ///   use; or this folder is an older copy, and then others of them may have been used, too.
    ///
    /// Security: the exception must stay. The server sees the masked image before it looks for its half, so each further try with a
    /// mask that was used before would tell it the difference of two images. The one that was tried is used up in any case: its mask
    /// has covered an image and never covers another.
    ///
    /// # Errors
    /// [`ClientError::Store`].
    pub fn settle(&self, error: &ClientError) -> Result<Option<Note>, ClientError> {
        let ClientError::Protocol(pi_protocol::Error::Kept(why)) = error else {
            return Ok(None);
        };
        Ok(match why {
            KeepError::NotThere => Some(Note::KeptGone {
                n: 1 + self.discard()?,
            }),
            KeepError::OtherModel | KeepError::Damaged => Some(Note::KeptRefused),
            KeepError::Unavailable | KeepError::Full => {
                self.pause.begin();
                Some(Note::KeptNotLookedFor)
            }
            _ => None,
        })
    }

    /// Whether the server could not look for its half a while ago, as this or another process saw: the next try might cost one more.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pause.is_on()
    }

    /// To be called when the server had its half of one.
    pub fn resume(&self) {
        self.pause.end();
    }

    /// Removes all that waits, and says how many it were.
    fn discard(&self) -> Result<usize, ClientError> {
        let mut n = 0;
        for item in self.items()? {
            n += usize::from(self.claim(&item.name)?);
        }
        Ok(n)
    }

    fn unseal(&self, name: &str, sealed: &[u8], plan: &PublicPlan) -> Result<Prepared, KeepError> {
        let (nonce, sealed) = sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(KeepError::Damaged)?;
        let payload = Payload {
            msg: sealed,
            aad: &self.associated(name),
        };
        let opened = self.cipher.decrypt(XNonce::from_slice(nonce), payload);
        let bytes = Zeroizing::new(opened.map_err(|_| KeepError::Damaged)?);
        Prepared::from_secret_bytes(&bytes, plan).map_err(|why| match why {
            pi_protocol::Error::Kept(why) => why,
            _ => KeepError::Damaged,
        })
    }

    fn skipped(&self) -> MutexGuard<'_, HashSet<String>> {
        let names = self.of_other_plans.lock();
        names.unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, without what is known to be for another plan.
    fn usable(&self) -> Result<Vec<Item>, ClientError> {
        let mut items = self.items()?;
        let skipped = self.skipped();
        items.retain(|item| !skipped.contains(&item.name));
        Ok(items)
    }

    /// Reads a file. None if another process took it.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ClientError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&path, format!("cannot read it: {e}"))),
        }
    }

    /// Removes a file for good. False if another process was faster.
    fn claim(&self, name: &str) -> Result<bool, ClientError> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(&path, format!("cannot take it: {e}"))),
        }
        self.sync()?;
        Ok(true)
    }

    /// What waits, the first to expire first. Removes what has expired, and what a crash left half written or half taken.
    fn items(&self) -> Result<Vec<Item>, ClientError> {
        let fail = |e: std::io::Error| failed(&self.folder, format!("cannot read it: {e}"));
        let mut items = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let Some(item) = name.to_str().and_then(Item::parse) else {
                continue;
            };
            if item.expires_s < now_s() + MARGIN_S {
                // Another process may have removed it.
                let _ = fs::remove_file(self.folder.join(&item.name));
                continue;
            }
            if item.name.ends_with(WAITING) {
                items.push(item);
            }
        }
        items.sort();
        Ok(items)
    }

    fn associated(&self, name: &str) -> Vec<u8> {
        format!(
            "private inference: kept by the client 1\n{}\n{name}",
            self.place
        )
        .into_bytes()
    }

    /// Makes what was renamed or removed durable.
    fn sync(&self) -> Result<(), ClientError> {
        #[cfg(unix)]
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| failed(&self.folder, format!("cannot make a change durable: {e}")))?;
        Ok(())
    }
}

impl Item {
    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.').next()?.split('-');
        let (expires_s, batch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self {
            expires_s,
            batch,
            name: name.to_owned(),
        })
    }
}

fn failed(path: &Path, reason: impl Into<String>) -> ClientError {
    ClientError::Store {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn private_folder(dir: &Path) -> Result<(), ClientError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.create(dir);
    made.map_err(|e| failed(dir, format!("cannot make this folder: {e}")))
}

/// A new file that this user alone can read.
fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn random<const N: usize>(at: &Path) -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    let random = rand::rngs::OsRng.try_fill_bytes(&mut bytes);
    random.map_err(|e| failed(at, format!("this system gives no randomness: {e}")))?;
    Ok(bytes)
}

/// The key in this file, or a new one if there is no file.
fn load_key(path: &Path) -> Result<Zeroizing<[u8; KEY_BYTES]>, ClientError> {
    let fail = |e: std::io::Error| failed(path, format!("cannot use this key: {e}"));
    if !path.exists() {
        let key = Zeroizing::new(random::<KEY_BYTES>(path)?);
        // Complete before it has its name: another process may be about to read it.
        let label: [u8; 8] = random(path)?;
        let label = u64::from_le_bytes(label);
        let unfinished = path.with_extension(format!("{label:016x}"));
        let mut file = private_file(&unfinished).map_err(fail)?;
        file.write_all(&*key)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        let linked = fs::hard_link(&unfinished, path);
        fs::remove_file(&unfinished).map_err(fail)?;
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(fail(e)),
            _ => {}
        }
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(path).map_err(fail)?.permissions().mode();
        if mode & 0o077 != 0 {
            let mode = mode & 0o777;
            return Err(failed(
                path,
                format!(
                    "others may read this key (mode {mode:03o}); make it private with `chmod 600`, or remove the folder"
                ),
            ));
        }
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(fail)?);
    let key = <[u8; KEY_BYTES]>::try_from(&bytes[..]);
    key.map(Zeroizing::new)
        .map_err(|_| failed(path, "this is no key of 32 bytes; remove the folder"))
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
