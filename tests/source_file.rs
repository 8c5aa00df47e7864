//! A file of backends is followed, however it is replaced, and garbage in it changes nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane::source::{Desk, Failure, FailureCause, Report, Timings, file};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough that no test passes because of it.
const NEVER: Duration = Duration::from_secs(3_600);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = format!("corelane-source-file-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A watcher of a file, and what it says.
struct Watcher {
    reports: mpsc::Receiver<(usize, Report)>,
    refresh: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    fn of(path: &Path, resync: Duration) -> Watcher {
        let (sender, reports) = mpsc::channel(64);
        let refresh = Arc::new(Notify::new());
        let desk = Desk { source: 7, reports: sender, refresh: refresh.clone() };
        let timings = Timings { resync, timeout: DEADLINE };
        let task = tokio::spawn(file::watch(path.to_path_buf(), timings, desk));
        Watcher { reports, refresh, task }
    }

    async fn next(&mut self) -> Report {
        let report = timeout(DEADLINE, self.reports.recv()).await.expect("a report in time");
        let (source, report) = report.expect("the watcher lives");
        assert_eq!(source, 7);
        report
    }

    /// Waits until the file's set is this one, in this order.
    async fn until(&mut self, ports: &[u16]) {
        let expected: Vec<String> = ports.iter().map(|port| format!("10.0.0.1:{port}")).collect();
        loop {
            let Report::Set(reading) = self.next().await else { continue };
            assert!(reading.rejected.is_empty() && reading.revision.is_none());
            let orders: Vec<Option<i64>> = reading.members.iter().map(|m| m.order).collect();
            let places: Vec<Option<i64>> = (0..orders.len() as i64).map(Some).collect();
            assert_eq!(orders, places);
            let found: Vec<String> =
                reading.members.iter().map(|member| member.address.to_string()).collect();
            if found == expected {
                return;
            }
        }
    }

    async fn failure(&mut self) -> Failure {
        loop {
            match self.next().await {
                Report::Failed(failure) => return failure,
                Report::Set(reading) => panic!("taken: {reading:?}"),
                Report::Unchanged => {}
            }
        }
    }

    async fn ends(self) {
        let Watcher { reports, task, .. } = self;
        drop(reports);
        timeout(DEADLINE, task).await.expect("ends when nobody listens").expect("without panic");
    }
}

fn toml(ports: &[u16]) -> String {
    let entries: Vec<String> = ports.iter().map(|port| format!("\"10.0.0.1:{port}\"")).collect();
    format!("backends = [{}]\n", entries.join(", "))
}

fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("written");
    fs::rename(&draft, path).expect("renamed");
}

#[tokio::test]
async fn replaced_by_rename() {
    let folder = Folder::new("rename");
    let path = folder.join("backends.toml");
    fs::write(&path, toml(&[2, 1])).expect("written");
    let mut watcher = Watcher::of(&path, NEVER);
    watcher.until(&[2, 1]).await;
    for round in 3..30 {
        replace(&path, &toml(&[1, round]));
        watcher.until(&[1, round]).await;
    }
    watcher.ends().await;
}

#[tokio::test]
async fn written_in_place_and_half_of_it_is_no_set() {
    let folder = Folder::new("in-place");
    let path = folder.join("backends.toml");
    fs::write(&path, toml(&[1, 2, 3])).expect("written");
    let mut watcher = Watcher::of(&path, NEVER);
    watcher.until(&[1, 2, 3]).await;
    // The writer pauses in the middle of the list, for longer than it is waited for.
    let mut writer = fs::File::create(&path).expect("truncated");
    writer.write_all(b"backends = [\"10.0.0.1:4\", ").expect("written");
    assert_eq!(watcher.failure().await.cause, FailureCause::Malformed);
    writer.write_all(b"\"10.0.0.1:5\"]\n").expect("written");
    drop(writer);
    watcher.until(&[4, 5]).await;
    // A list of tables would be a list at every line's end: a quick writer is not read half.
    let entry = |port: u16| format!("[[backends]]\naddress = \"10.0.0.1:{port}\"\n");
    let mut writer = fs::File::create(&path).expect("truncated");
    let began = Instant::now();
    for port in 10..40 {
        writer.write_all(entry(port).as_bytes()).expect("written");
        writer.flush().expect("flushed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(writer);
    let was_quick = began.elapsed() < Duration::from_millis(240);
    let all: Vec<u16> = (10..40).collect();
    match watcher.next().await {
        Report::Set(reading) if was_quick => assert_eq!(reading.members.len(), all.len()),
        // On a machine that stood still meanwhile.
        Report::Set(reading) if reading.members.len() < all.len() => watcher.until(&all).await,
        Report::Set(_) => {}
        other => panic!("{other:?}"),
    }
    watcher.ends().await;
}

#[tokio::test]
async fn deleted_and_made_again_with_its_folder() {
    let folder = Folder::new("delete");
    let path = folder.join("a/b/backends");
    let mut watcher = Watcher::of(&path, NEVER);
    assert_eq!(watcher.failure().await.cause, FailureCause::Missing);
    fs::create_dir_all(folder.join("a/b")).expect("a folder");
    fs::write(&path, toml(&[1])).expect("written");
    watcher.until(&[1]).await;
    fs::remove_file(&path).expect("removed");
    assert_eq!(watcher.failure().await.cause, FailureCause::Missing);
    fs::write(&path, toml(&[2])).expect("written");
    watcher.until(&[2]).await;
    fs::remove_dir_all(folder.join("a")).expect("removed");
    assert_eq!(watcher.failure().await.cause, FailureCause::Missing);
    fs::create_dir_all(folder.join("a/b")).expect("a folder");
    fs::write(&path, toml(&[3])).expect("written");
    watcher.until(&[3]).await;
    // A folder that takes another's place.
    fs::create_dir_all(folder.join("new/b")).expect("a folder");
    fs::write(folder.join("new/b/backends"), toml(&[4])).expect("written");
    fs::rename(folder.join("a"), folder.join("old")).expect("renamed");
    fs::rename(folder.join("new"), folder.join("a")).expect("renamed");
    watcher.until(&[4]).await;
    fs::write(&path, toml(&[5])).expect("written");
    watcher.until(&[5]).await;
    watcher.ends().await;
}

#[tokio::test]
async fn a_folder_behind_a_link_that_is_swapped() {
    let folder = Folder::new("swap");
    // As the kubelet lays out a ConfigMap: file → ..data/file, ..data → ..GENERATION.
    let generation = |number: u16| {
        let name = format!("..{number}");
        fs::create_dir(folder.join(&name)).expect("a folder");
        fs::write(folder.join(&name).join("backends.json"), json(&[number])).expect("written");
        symlink(&name, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
    };
    generation(1);
    symlink("..data/backends.json", folder.join("backends.json")).expect("a link");
    let mut direct = Watcher::of(&folder.join("backends.json"), NEVER);
    let mut through = Watcher::of(&folder.join("..data/backends.json"), NEVER);
    for number in 1..9 {
        if number > 1 {
            generation(number);
            fs::remove_dir_all(folder.join(&format!("..{}", number - 1))).expect("removed");
        }
        direct.until(&[number]).await;
        through.until(&[number]).await;
    }
    direct.ends().await;
    through.ends().await;
}

fn json(ports: &[u16]) -> String {
    let entries: Vec<String> = ports.iter().map(|port| format!("\"10.0.0.1:{port}\"")).collect();
    format!("{{\"backends\": [{}]}}", entries.join(", "))
}

#[tokio::test]
async fn garbage_is_refused_with_its_place_and_the_file_is_read_again() {
    let folder = Folder::new("garbage");
    let path = folder.join("backends");
    replace(&path, &toml(&[1]));
    let mut watcher = Watcher::of(&path, NEVER);
    watcher.until(&[1]).await;
    let long = format!("{}#{}", toml(&[1]), "x".repeat(5 << 20));
    let garbage: [(&[u8], &str); 7] = [
        (b"", "missing"),
        (b"\xff\xfe", "utf-8"),
        (b"backends = [\"10.0.0.1:1\", \"nonsense\"]", "1:27: backends[1]: not an address"),
        (b"backends = [\"10.0.0.1:1\"]\nbackend = []", "2:1: backend: unknown key"),
        (b"{\"backends\": [\"10.0.0.1:1\"", "not JSON"),
        (b"[[[[", "1:"),
        (long.as_bytes(), "not read further"),
    ];
    for (bytes, said) in garbage {
        fs::write(folder.join("draft"), bytes).expect("written");
        fs::rename(folder.join("draft"), &path).expect("renamed");
        let failure = watcher.failure().await;
        assert_eq!(failure.cause, FailureCause::Malformed);
        assert!(failure.detail.contains(said), "{said}: {failure}");
        assert!(failure.detail.len() < 1_000, "{}", failure.detail.len());
    }
    fs::remove_file(&path).expect("removed");
    assert_eq!(watcher.failure().await.cause, FailureCause::Missing);
    fs::create_dir(&path).expect("a folder in its place");
    assert_eq!(watcher.failure().await.cause, FailureCause::Malformed);
    fs::remove_dir(&path).expect("removed");
    replace(&path, &toml(&[]));
    watcher.until(&[]).await;
    watcher.ends().await;
}

#[tokio::test]
async fn what_is_not_allowed_to_be_read_is_said_to_be_so() {
    let folder = Folder::new("denied");
    let path = folder.join("backends");
    fs::write(&path, toml(&[1])).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("taken away");
    let mut watcher = Watcher::of(&path, NEVER);
    // Root reads everything.
    if fs::File::open(&path).is_err() {
        assert_eq!(watcher.failure().await.cause, FailureCause::Denied);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("given");
    watcher.until(&[1]).await;
    watcher.ends().await;
}

#[tokio::test]
async fn what_the_kernel_does_not_tell_is_found_by_and_by_and_on_request() {
    let folder = Folder::new("resync");
    let path = folder.join("backends");
    fs::write(&path, toml(&[1])).expect("written");
    let mut watcher = Watcher::of(&path, Duration::from_millis(200));
    watcher.until(&[1]).await;
    assert_eq!(watcher.next().await, Report::Unchanged);
    assert_eq!(watcher.next().await, Report::Unchanged);
    watcher.ends().await;
    let mut watcher = Watcher::of(&path, NEVER);
    watcher.until(&[1]).await;
    watcher.refresh.notify_one();
    assert_eq!(watcher.next().await, Report::Unchanged);
    // Neighbours are nobody's business.
    fs::write(folder.join("other"), "x").expect("written");
    let quiet = timeout(Duration::from_millis(400), watcher.reports.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    watcher.ends().await;
}
