//! The way that a path takes: the folders it leads through, links followed, and the name that is
//! looked up in each. When one of those names changes its meaning, so may the path.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Most names that a path is followed through.
const STEPS_MAX: usize = 256;
/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;
/// A path that keeps changing while it is followed is taken as it is after so many times.
const TRIES: usize = 8;

/// Everything that may give a name another meaning, or a file another content.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

/// A folder, and a name in it.
type Step = (PathBuf, OsString);

/// The folders of a path, watched.
#[derive(Debug, Default)]
pub struct Trail {
    /// Watch descriptors, and the names that matter in each.
    names: HashMap<i32, HashSet<OsString>>,
    /// Whether every folder on the way could be watched.
    complete: bool,
}

impl Trail {
    /// Follows a path and watches its folders. May wait for a file system.
    pub fn follow(path: &Path, descriptor: &OwnedFd) -> Trail {
        let mut steps = steps(path);
        let mut trail = Trail::default();
        for _ in 0..TRIES {
            trail.complete = true;
            // From the root downwards: what changes after a folder is watched is told.
            for (folder, name) in &steps {
                match inotify::add_watch(descriptor, folder, EVENTS) {
                    Ok(watch) => {
                        trail.names.entry(watch).or_default().insert(name.clone());
                    }
                    Err(_unwatchable) => trail.complete = false,
                }
            }
            let again = self::steps(path);
            if again == steps {
                break;
            }
            steps = again;
        }
        trail
    }
}

/// Every folder that a path leads through, and what is looked up there, as far as there is
/// something.
fn steps(path: &Path) -> Vec<Step> {
    let Ok(absolute) = std::path::absolute(path) else { return Vec::new() };
    let mut folder = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(&absolute).collect();
    let mut steps = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            folder.pop();
            continue;
        }
        let place = folder.join(&name);
        steps.push((folder.clone(), name));
        let Ok(about) = std::fs::symlink_metadata(&place) else { break };
        if !about.is_symlink() {
            folder = place;
        } else {
            let Ok(target) = std::fs::read_link(&place) else { break };
            links += 1;
            if target.is_absolute() {
                folder = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        if steps.len() >= STEPS_MAX || links > LINKS_MAX {
            break;
        }
    }
    steps
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

/// What the kernel has to say about a trail.
#[derive(Debug)]
pub struct Watch {
    notices: AsyncFd<Arc<OwnedFd>>,
    trail: Trail,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// What inotify_init1(2) says, or the runtime.
    pub fn new() -> io::Result<Watch> {
        let descriptor = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Watch { notices: sys::readable(Arc::new(descriptor))?, trail: Trail::default() })
    }

    /// For [`Trail::follow`].
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(self.notices.get_ref())
    }

    /// Whether nothing can change unnoticed, as far as the kernel knows.
    pub fn is_complete(&self) -> bool {
        self.trail.complete
    }

    /// From now on this trail counts.
    pub fn keep(&mut self, trail: Trail) {
        for watch in self.trail.names.keys().filter(|watch| !trail.names.contains_key(watch)) {
            // A folder that is gone has taken its watch with it.
            let _ = inotify::remove_watch(self.descriptor(), *watch);
        }
        self.trail = trail;
    }

    /// Returns when something on the trail has changed; `true` if it was written to and its writer
    /// may go on.
    pub async fn changed(&mut self) -> bool {
        loop {
            let Ok(mut ready) = self.notices.readable().await else {
                return std::future::pending().await;
            };
            let notices = read_notices(self.notices.get_ref());
            ready.clear_ready();
            let mut writing = None;
            for notice in &notices {
                if let Some(more) = self.trail.verdict(notice) {
                    writing = Some(more);
                }
            }
            if let Some(writing) = writing {
                return writing;
            }
        }
    }
}

/// One notice of the kernel.
struct Notice {
    watch: i32,
    flags: ReadFlags,
    name: Option<OsString>,
}

/// Everything that is to be read now.
fn read_notices(descriptor: &OwnedFd) -> Vec<Notice> {
    let mut buffer = [MaybeUninit::uninit(); 8_192];
    let mut reader = inotify::Reader::new(descriptor, &mut buffer);
    let mut notices = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => notices.push(Notice {
                watch: event.wd(),
                flags: event.events(),
                name: event.file_name().map(CStr::to_bytes).map(|n| OsStr::from_bytes(n).into()),
            }),
            Err(Errno::INTR) => {}
            Err(_nothing_more) => return notices,
        }
    }
}

impl Trail {
    /// `None` if a notice is about something else; else whether somebody is writing.
    fn verdict(&self, notice: &Notice) -> Option<bool> {
        if notice.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(false);
        }
        let names = self.names.get(&notice.watch)?;
        match &notice.name {
            // The folder itself: gone, moved or out of sight.
            None => Some(false),
            Some(name) if names.contains(name) => {
                let writing = ReadFlags::MODIFY | ReadFlags::CREATE;
                Some(notice.flags.intersects(writing))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir();
            let folder = fs::canonicalize(folder).expect("a folder for temporary files");
            let folder = folder.join(format!("corelane-trail-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            Folder(folder)
        }

        /// The steps below this folder, as text.
        fn steps(&self, path: &str) -> Vec<String> {
            let steps = steps(&self.0.join(path)).into_iter();
            let below = steps.filter_map(|(folder, name)| {
                let below = folder.strip_prefix(&self.0).ok()?;
                Some(below.join(name).display().to_string())
            });
            below.collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_path_is_followed_through_its_links() {
        let folder = Folder::new("links");
        fs::create_dir_all(folder.0.join("real/one")).expect("a folder");
        fs::write(folder.0.join("real/one/file"), "").expect("a file");
        symlink("real/one", folder.0.join("data")).expect("a link");
        symlink("data/file", folder.0.join("file")).expect("a link");
        symlink(folder.0.join("real/../file"), folder.0.join("far")).expect("a link");
        let expected = ["file", "data", "real", "real/one", "real/one/file"];
        assert_eq!(folder.steps("file"), expected);
        let far = folder.steps("far");
        assert_eq!(far.first().map(String::as_str), Some("far"));
        assert_eq!(far[1], "real");
        assert_eq!(far[2..], expected);
        assert_eq!(folder.steps("real/absent/below"), ["real", "real/absent"]);
        assert_eq!(folder.steps("./real//../data/file").first().map(String::as_str), Some("real"));
    }

    #[test]
    fn a_circle_of_links_has_an_end() {
        let folder = Folder::new("circle");
        symlink("b", folder.0.join("a")).expect("a link");
        symlink("a", folder.0.join("b")).expect("a link");
        assert!(folder.steps("a").len() <= LINKS_MAX + 2);
        symlink("c/c/c/c/c/c/c/c/c", folder.0.join("c")).expect("a link");
        assert!(steps(&folder.0.join("c")).len() <= STEPS_MAX);
    }
}
