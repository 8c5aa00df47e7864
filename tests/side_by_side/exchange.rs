//! A caller that sends bytes as they are, and reads responses.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::stores::process::DEADLINE;

/// What else may come of a hostile request comes by then, on the machine itself.
const QUIET: Duration = Duration::from_millis(40);

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn value(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What a caller heard.
#[derive(Debug)]
pub struct Heard {
    /// Final ones, and 101.
    pub responses: Vec<Response>,
    /// Whether the connection was closed while it was listened to.
    pub closed: bool,
}

/// Sends bytes and reads the response, of hostile ones all responses until there is nothing for a
/// while.
pub fn exchange(to: SocketAddr, bytes: &[u8], hostile: bool) -> Heard {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // Who is refused early may find the connection closed.
    let _refused = stream.write_all(bytes);
    let head = bytes.starts_with(b"HEAD ");
    let mut reader = BufReader::new(stream);
    let mut heard = Heard { responses: Vec::new(), closed: false };
    loop {
        match read_response(&mut reader, head) {
            Ok(Some(response)) if response.status / 100 == 1 && response.status != 101 => {}
            Ok(Some(response)) => {
                heard.responses.push(response);
                if !hostile {
                    return heard;
                }
                reader.get_ref().set_read_timeout(Some(QUIET)).unwrap();
            }
            Ok(None) => {
                heard.closed = true;
                return heard;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return heard;
            }
            Err(_) => {
                heard.closed = true;
                return heard;
            }
        }
    }
}

/// The next response; `None` at the end of the connection.
pub fn read_response(reader: &mut impl BufRead, head: bool) -> std::io::Result<Option<Response>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let status = line.split(' ').nth(1).and_then(|word| word.trim_end().parse().ok());
    let Some(status) = status.filter(|_| line.starts_with("HTTP/1.")) else {
        return Err(std::io::Error::other(format!("not a response: {line:?}")));
    };
    let mut fields = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut response = Response { status, fields, body: Vec::new() };
    if head || status / 100 == 1 || status == 204 || status == 304 {
        return Ok(Some(response));
    }
    if response.value("transfer-encoding").is_some() {
        response.body = read_chunks(reader)?;
    } else if let Some(length) = response.value("content-length") {
        response.body = vec![0; length.parse().map_err(std::io::Error::other)?];
        reader.read_exact(&mut response.body)?;
    } else {
        reader.read_to_end(&mut response.body)?;
    }
    Ok(Some(response))
}

fn read_chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}
