//! A store's real server: started in a directory of its own, on a port of its own, ended with the
//! test whatever happens to the test.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::machine::{is_stopped, reserve};

/// A server that has not answered by then does not work.
pub const DEADLINE: Duration = Duration::from_secs(20);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A directory of the test's own.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What a failed test leaves is worth a look.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A port that no other test, no outgoing connection and nobody who wants any port is given while
/// this process lives, on all of this machine's addresses. Below Linux's ephemeral range, for those
/// who need it for datagrams as well.
pub fn free_port() -> u16 {
    for _ in 0..1_000 {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(61).wrapping_add(serial.wrapping_mul(7));
        let port = 10_000 + u16::try_from(spread % 20_000).unwrap();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        if UdpSocket::bind(everywhere).is_ok() && reserve(everywhere).is_some() {
            return port;
        }
    }
    panic!("no free port");
}

/// A running server.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it says goes to a file in the directory.
    pub fn start(directory: &Directory, program: &str, arguments: &[String]) -> Process {
        let log = directory.path().join(format!("{program}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        // setpriv: should the test be killed, so is the server.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", program])
            .args(arguments)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv: {error}; see scripts/install-test-tools"));
        Process { child, name: program.to_owned(), log }
    }

    /// Waits until `ready`; panics with the server's log when it ends or takes too long.
    pub fn wait(&mut self, mut ready: impl FnMut() -> bool) {
        let give_up = Instant::now() + DEADLINE;
        while !ready() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > give_up {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("{} does not answer ({ended:?}); it said:\n{said}", self.name);
            }
            pause(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// Stops its every thread, and waits until they stand; the kernel goes on taking connections
    /// and bytes for it.
    pub fn pause(&self) {
        self.signal("STOP");
        until("every thread stopped", || is_stopped(self.child.id()));
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// The hard end: nothing is flushed, nobody is told.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for something that nobody tells about.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let give_up = Instant::now() + DEADLINE;
    while !happened() {
        assert!(Instant::now() < give_up, "in {DEADLINE:?}: not {what}");
        pause(Duration::from_millis(20));
    }
}

/// Between two looks at something that nobody tells about.
#[expect(clippy::disallowed_methods, reason = "a test's thread may sleep between two looks")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// An authority, and certificates of a store at 127.0.0.1 and of a gateway.
pub fn certificates(directory: &Path) {
    let script = "
        new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch'
        $new -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        for name in store gate; do
          $new -subj /CN=$name -keyout $name.key -out $name.csr
          printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >$name.ext
          openssl x509 -req -days 2 -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
            -extfile $name.ext -out $name.pem
        done";
    let output = Command::new("sh").args(["-ec", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
