//! Where lines go: a stream we were started with, or a file that may be renamed under us.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Mode of a log file we create: keys of devices are nobody else's business.
const FILE_MODE: u32 = 0o640;

/// Bytes that one write to a pipe puts there in one piece (PIPE_BUF on Linux). Standard output and
/// standard error may be shared with other writers, so lines stay whole up to this length.
const PIPE_LEN_ATOMIC: usize = 4096;

/// Bytes of one write to a file.
const FILE_WRITE_LEN_MAX: usize = 64 * 1024;

/// A target of lines.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    /// Where to open it again; a stream has no path.
    path: Option<PathBuf>,
    write_len_max: usize,
    /// The last byte written was not the end of a line.
    mid_line: bool,
}

impl Sink {
    /// Standard output, past the standard library's buffer and lock.
    pub(super) fn stdout() -> io::Result<Sink> {
        Self::stream(io::stdout().as_fd())
    }

    /// Standard error.
    pub(super) fn stderr() -> io::Result<Sink> {
        Self::stream(io::stderr().as_fd())
    }

    fn stream(stream: impl AsFd) -> io::Result<Sink> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Sink { file, path: None, write_len_max: PIPE_LEN_ATOMIC, mid_line: false })
    }

    /// A file, appended to.
    pub(super) fn file(path: PathBuf) -> io::Result<Sink> {
        let file = open(&path)?;
        let write_len_max = FILE_WRITE_LEN_MAX;
        Ok(Sink { file, path: Some(path), write_len_max, mid_line: false })
    }

    /// Opens the path again; on failure the open file stays. `false`: a stream has no path.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let Some(path) = &self.path else { return Ok(false) };
        self.file = open(path)?;
        self.mid_line = false;
        Ok(true)
    }

    /// Whether only a part of the last line has been written.
    pub(super) fn is_mid_line(&self) -> bool {
        self.mid_line
    }

    /// Ends the torn line that a failed write left, so that the next line stands alone.
    pub(super) fn end_torn_line(&mut self) -> io::Result<()> {
        if self.mid_line {
            self.file.write_all(b"\n")?;
            self.mid_line = false;
        }
        Ok(())
    }

    /// Writes some of `lines` from the start; gives the number of bytes taken.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let len = match self.file.write(first_piece(lines, self.write_len_max)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        if let Some(last) = lines[..len].last() {
            self.mid_line = *last != b'\n';
        }
        Ok(len)
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        // Files ignore it; a FIFO nobody reads gives an error instead of a thread that hangs.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// As many whole lines as fit into `len_max` bytes, but at least one line.
fn first_piece(lines: &[u8], len_max: usize) -> &[u8] {
    if lines.len() <= len_max {
        return lines;
    }
    let (fitting, rest) = lines.split_at(len_max);
    let end = match fitting.iter().rposition(|byte| *byte == b'\n') {
        Some(last) => last + 1,
        None => {
            rest.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| len_max + at + 1)
        }
    };
    &lines[..end]
}
