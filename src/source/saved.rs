//! The set that a source gave last, on disk: what counts at start while the store is away.
//!
//! ```text
//! {"corelane_set":1,"crc32":"89abcdef","set":
//! {
//!   "pool": "c2s",
//!   "source": "redis redis://127.0.0.1:6379/0 corelane:c2s",
//!   "saved_at": "2026-01-31T12:00:00Z",
//!   "revision": null,
//!   "members": [
//!     {"address": "10.0.0.1:7000", "weight": 1, "state": "ready", "order": null}
//!   ]
//! }}
//! ```
//!
//! The checksum is that of the text of `set`. A file is replaced as a whole or not at all: written
//! beside its name, flushed to the disk, renamed, and the folder flushed.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::value::ENTRIES_MAX;
use super::{Member, merge};
use crate::config::{Address, BackendState};
use crate::input::read_at_most;

/// The only version so far.
const VERSION: u32 = 1;
/// Longest file, bytes: [`ENTRIES_MAX`] members with long paths.
const FILE_LEN_MAX: usize = 16 << 20;

/// Whose set it is: a file of another pool or another store is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'o> {
    /// The pool's name.
    pub pool: &'o str,
    /// The source, as its kind is displayed.
    pub source: &'o str,
}

/// A set that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// In the order of [`merge::compare`].
    pub members: Vec<Member>,
    /// When it was saved, by this machine's clock.
    pub saved_at: SystemTime,
    /// Of the store, if it numbers its states.
    pub revision: Option<String>,
}

impl Saved {
    /// How long ago that was; zero if the clock went back.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.saved_at).unwrap_or_default()
    }
}

/// Why a set was not saved.
#[derive(Debug)]
pub struct SaveError {
    path: PathBuf,
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.step, self.path.display(), self.error)
    }
}

impl std::error::Error for SaveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why there is no set.
#[derive(Debug)]
pub enum RestoreError {
    /// None was ever saved.
    Absent,
    /// It could not be read, or is too long.
    Unreadable(io::Error),
    /// It is not what was written: cut off, changed, or never a set.
    Damaged(String),
    /// It is a set of another pool or store, or of a version that this one does not know.
    Foreign(String),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Absent => f.write_str("no set was saved"),
            RestoreError::Unreadable(error) => write!(f, "the saved set cannot be read: {error}"),
            RestoreError::Damaged(why) => write!(f, "the saved set is damaged: {why}"),
            RestoreError::Foreign(why) => write!(f, "the saved set is another's: {why}"),
        }
    }
}

impl std::error::Error for RestoreError {}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'e> {
    corelane_set: u32,
    crc32: String,
    #[serde(borrow)]
    set: &'e RawValue,
}

#[derive(Serialize, Deserialize)]
struct Set {
    pool: String,
    source: String,
    saved_at: String,
    revision: Option<String>,
    members: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    address: String,
    weight: u32,
    state: State,
    order: Option<i64>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum State {
    Ready,
    Drain,
    Down,
}

/// The file of a source's set in `folder`. Sources that change places keep their files.
pub fn path(folder: &Path, origin: Origin<'_>) -> PathBuf {
    let source = crc32fast::hash(origin.source.as_bytes());
    folder.join(format!("{}-{source:08x}.json", origin.pool))
}

/// Saves a set, making the folder if there is none.
///
/// # Errors
/// When it could not be made durable; what was saved before is then still there.
pub fn save(folder: &Path, origin: Origin<'_>, saved: &Saved) -> Result<(), SaveError> {
    let path = path(folder, origin);
    let failed = |step, path: &Path| {
        let path = path.to_path_buf();
        move |error| SaveError { path, step, error }
    };
    let text = encode(origin, saved).map_err(failed("write", &path))?;
    make_durable(folder, &path, text.as_bytes())
}

/// Replaces a file in `folder` as a whole, making the folder if there is none.
///
/// # Errors
/// When it could not be made durable; what was there before is then still there.
pub(crate) fn make_durable(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), SaveError> {
    let failed = |step, path: &Path| {
        let path = path.to_path_buf();
        move |error| SaveError { path, step, error }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("make", folder))?;
    // Another process may be saving the same set: while one takes over from the other.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = replace(&draft, path, bytes);
    if written.is_err() {
        // What is left of it is of no use; that it cannot be removed either changes nothing.
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(failed("replace", path))?;
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(failed("flush", folder))
}

fn replace(draft: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

fn encode(origin: Origin<'_>, saved: &Saved) -> io::Result<String> {
    let mut members: Vec<&Member> = saved.members.iter().collect();
    members.sort_by(|a, b| merge::compare(a, b));
    let set = Set {
        pool: origin.pool.to_string(),
        source: origin.source.to_string(),
        saved_at: humantime::format_rfc3339_seconds(saved.saved_at).to_string(),
        revision: saved.revision.clone(),
        members: members.iter().map(|member| Entry::of(member)).collect(),
    };
    let set = RawValue::from_string(serde_json::to_string_pretty(&set)?)?;
    let crc32 = checksum(set.get());
    let text = serde_json::to_string(&Envelope { corelane_set: VERSION, crc32, set: &set })?;
    match text.len() {
        len if len >= FILE_LEN_MAX || saved.members.len() > ENTRIES_MAX => {
            let error = format!("{len} bytes and {} members are too much", saved.members.len());
            Err(io::Error::new(io::ErrorKind::FileTooLarge, error))
        }
        _ => Ok(text + "\n"),
    }
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// Loads the set that was saved last.
///
/// # Errors
/// Why there is none. A file that is not exactly what was saved is not taken in part.
pub fn load(folder: &Path, origin: Origin<'_>) -> Result<Saved, RestoreError> {
    let path = path(folder, origin);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RestoreError::Absent),
        Err(error) => return Err(RestoreError::Unreadable(error)),
    };
    decode(&bytes, origin)
}

/// A regular file of up to 16 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        // Opening a pipe would wait for somebody to write.
        return Err(io::Error::other("not a regular file"));
    }
    read_at_most(File::open(path)?, FILE_LEN_MAX)
}

fn decode(bytes: &[u8], origin: Origin<'_>) -> Result<Saved, RestoreError> {
    // Cut-off files need no longer text than this; what comes behind the end is damage, too.
    let Some(bytes) = bytes.strip_suffix(b"\n") else {
        return Err(RestoreError::Damaged("it does not end in a newline".to_string()));
    };
    let damaged = |error: serde_json::Error| RestoreError::Damaged(error.to_string());
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
    if envelope.corelane_set != VERSION {
        let why = format!("version {}, not {VERSION}", envelope.corelane_set);
        return Err(RestoreError::Foreign(why));
    }
    let checksum = checksum(envelope.set.get());
    if checksum != envelope.crc32 {
        let why = format!("its checksum is {checksum}, not {}", envelope.crc32);
        return Err(RestoreError::Damaged(why));
    }
    let set: Set = serde_json::from_str(envelope.set.get()).map_err(damaged)?;
    if (set.pool.as_str(), set.source.as_str()) != (origin.pool, origin.source) {
        let why = format!("pool {:?}, source {:?}", set.pool, set.source);
        return Err(RestoreError::Foreign(why));
    }
    let saved_at = humantime::parse_rfc3339(&set.saved_at)
        .map_err(|error| RestoreError::Damaged(format!("its time is none: {error}")))?;
    let members: Result<Vec<Member>, String> = set.members.iter().map(Entry::member).collect();
    let members = members.map_err(RestoreError::Damaged)?;
    Ok(Saved { members, saved_at, revision: set.revision })
}

impl Entry {
    fn of(member: &Member) -> Entry {
        let state = match member.state {
            BackendState::Ready => State::Ready,
            BackendState::Drain => State::Drain,
            BackendState::Down => State::Down,
        };
        let Member { weight, order, .. } = *member;
        Entry { address: member.address.to_string(), weight, state, order }
    }

    fn member(&self) -> Result<Member, String> {
        let address: Address = match self.address.parse() {
            Ok(address) => address,
            Err(error) => return Err(format!("{:?}: {error}", self.address)),
        };
        if !(1..=65_535).contains(&self.weight) {
            return Err(format!("{address}: weight {}", self.weight));
        }
        let state = match self.state {
            State::Ready => BackendState::Ready,
            State::Drain => BackendState::Drain,
            State::Down => BackendState::Down,
        };
        Ok(Member { address, weight: self.weight, state, order: self.order })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const ORIGIN: Origin<'static> = Origin { pool: "..", source: "redis redis://h k" };

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("corelane-saved-{name}-{}", std::process::id());
            Folder(std::env::temp_dir().join(name).join("state"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(self.0.parent().expect("made below another"));
        }
    }

    fn saved(count: u16) -> Saved {
        let member = |index: u16| Member {
            address: Address::Tcp(([10, 0, 0, 1], 1 + index).into()),
            weight: u32::from(index % 9) + 1,
            state: [BackendState::Ready, BackendState::Drain, BackendState::Down]
                [usize::from(index % 3)],
            order: None,
        };
        let mut members: Vec<Member> = (0..count).map(member).collect();
        let address = Address::Unix("/run/\"ü\".sock".into());
        let state = BackendState::Ready;
        members.insert(0, Member { address, weight: 65_535, state, order: Some(-7) });
        let saved_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Saved { members, saved_at, revision: Some("42".to_string()) }
    }

    #[test]
    fn what_is_saved_is_loaded_and_replaced_as_a_whole() {
        let folder = Folder::new("whole");
        assert!(matches!(load(&folder.0, ORIGIN), Err(RestoreError::Absent)));
        for set in [saved(3), saved(0), saved(3_000)] {
            save(&folder.0, ORIGIN, &set).expect("saved");
            assert_eq!(load(&folder.0, ORIGIN).expect("loaded"), set);
        }
        let now = saved(0).saved_at + Duration::from_secs(9);
        assert_eq!(saved(0).age(now), Duration::from_secs(9));
        assert_eq!(saved(0).age(SystemTime::UNIX_EPOCH), Duration::ZERO);
        let names: Vec<_> = std::fs::read_dir(&folder.0).expect("the folder").collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(mode(&folder.0) & 0o777, 0o700);
        assert_eq!(mode(&path(&folder.0, ORIGIN)) & 0o777, 0o600);
    }

    #[test]
    fn an_order_of_arrival_is_not_saved() {
        let mut backwards = saved(5);
        backwards.members.reverse();
        let text = |saved: &Saved| encode(ORIGIN, saved).expect("a few");
        assert_eq!(text(&backwards), text(&saved(5)));
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let folder = Folder::new("cut");
        save(&folder.0, ORIGIN, &saved(2)).expect("saved");
        let path = path(&folder.0, ORIGIN);
        let whole = std::fs::read(&path).expect("the file");
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).expect("written");
            match load(&folder.0, ORIGIN) {
                Err(RestoreError::Damaged(why)) => assert!(!why.is_empty()),
                other => panic!("{len} of {} bytes: {other:?}", whole.len()),
            }
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_wherever_it_is() {
        let whole = encode(ORIGIN, &saved(2)).expect("a few").into_bytes();
        for at in 0..whole.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= flip;
                let loaded = decode(&changed, ORIGIN);
                assert!(loaded.is_err(), "byte {at} with {flip}: {loaded:?}");
            }
        }
        let longer = [&whole[..], b"x\n"].concat();
        assert!(matches!(decode(&longer, ORIGIN), Err(RestoreError::Damaged(_))));
    }

    #[test]
    fn anothers_set_is_not_taken() {
        let folder = Folder::new("foreign");
        save(&folder.0, ORIGIN, &saved(2)).expect("saved");
        let own = path(&folder.0, ORIGIN);
        for other in [Origin { pool: "b", ..ORIGIN }, Origin { source: "file x", ..ORIGIN }] {
            assert!(matches!(load(&folder.0, other), Err(RestoreError::Absent)));
            std::fs::copy(&own, path(&folder.0, other)).expect("copied");
            assert!(matches!(load(&folder.0, other), Err(RestoreError::Foreign(_))));
        }
        let text = std::fs::read_to_string(&own).expect("the file");
        std::fs::write(&own, text.replace("\"corelane_set\":1", "\"corelane_set\":2")).unwrap();
        assert!(matches!(load(&folder.0, ORIGIN), Err(RestoreError::Foreign(_))));
    }

    #[test]
    fn what_is_too_much_is_neither_saved_nor_loaded() {
        let folder = Folder::new("much");
        let mut many = saved(2);
        many.members = vec![many.members[0].clone(); ENTRIES_MAX + 1];
        assert!(save(&folder.0, ORIGIN, &many).is_err());
        save(&folder.0, ORIGIN, &saved(2)).expect("saved");
        let path = path(&folder.0, ORIGIN);
        let file = OpenOptions::new().write(true).open(&path).expect("the file");
        file.set_len(FILE_LEN_MAX as u64 + 1).expect("made long");
        assert!(matches!(load(&folder.0, ORIGIN), Err(RestoreError::Unreadable(_))));
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a folder instead");
        assert!(matches!(load(&folder.0, ORIGIN), Err(RestoreError::Unreadable(_))));
    }

    #[test]
    fn what_cannot_be_saved_leaves_what_was() {
        let folder = Folder::new("left");
        save(&folder.0, ORIGIN, &saved(2)).expect("saved");
        let mut many = saved(2);
        many.members = vec![many.members[0].clone(); ENTRIES_MAX + 1];
        let error = save(&folder.0, ORIGIN, &many).expect_err("too many");
        assert!(error.to_string().contains("too much"), "{error}");
        assert_eq!(load(&folder.0, ORIGIN).expect("still there"), saved(2));
        let beneath = path(&folder.0, ORIGIN).join("state");
        let error = save(&beneath, ORIGIN, &saved(2)).expect_err("below a file");
        assert!(error.to_string().starts_with("cannot make"), "{error}");
    }
}
