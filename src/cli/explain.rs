//! `corelane explain`: what a listener makes of a frame, a request, or a server name.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use corelane::config::{Config, Protocol};
use corelane::explain;
use corelane::input::read_at_most;

use super::edited::with_edits;
use super::{Failure, FileArgument, chosen, write_result};

/// `explain`
#[derive(Debug, Args)]
#[command(group(
    ArgGroup::new("input").required(true).args(["frame", "http", "server_name", "hello"])
))]
pub struct ExplainArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Name of the listener; needed when listeners have different pools.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// File with the bytes as they are sent, or "-" for hexadecimal on standard input.
    #[arg(long, value_name = "FILE")]
    frame: Option<PathBuf>,
    /// File with the head of a request, or "-" for standard input. Lines may end in LF alone.
    #[arg(long, value_name = "FILE")]
    http: Option<PathBuf>,
    /// Server name (SNI) that a client of a "tcp" listener with key = "sni" asks for.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// File with the ClientHello of such a client as it is sent, or "-" for hexadecimal on standard
    /// input.
    #[arg(long, value_name = "FILE")]
    hello: Option<PathBuf>,
    /// Address of the client that sends the request, for what depends on it.
    #[arg(long, value_name = "IP:PORT", requires = "http")]
    client: Option<SocketAddr>,
}

/// Explains what was given.
pub(super) fn execute(arguments: ExplainArguments) -> Result<ExitCode, Failure> {
    let ExplainArguments { file, listener, frame, http, server_name, hello, client } = arguments;
    let listener = listener.as_deref();
    with_edits(&file.config, |config| {
        if let Some(head) = &http {
            explain_head(&config, listener, (head, client))
        } else if let Some(name) = &server_name {
            let listener = by_name(&config, listener)?;
            shown(explain::explain_name(&config, listener, name))
        } else if let Some(hello) = &hello {
            let listener = by_name(&config, listener)?;
            let bytes = read_bytes(hello, explain::input_len_max(&config, listener))?;
            shown(explain::explain_hello(&config, listener, &bytes))
        } else {
            explain_frame(&config, listener, frame.as_deref().unwrap_or(Path::new("-")))
        }
    })
}

fn shown(page: Result<String, explain::ExplainError>) -> Result<ExitCode, Failure> {
    write_result(&page.map_err(Failure::Explain)?)?;
    Ok(ExitCode::SUCCESS)
}

fn by_name(config: &Config, listener: Option<&str>) -> Result<usize, Failure> {
    chosen(config, listener, |index| explain::is_by_name(&config.listeners[index]))
}

fn explain_frame(
    config: &Config,
    listener: Option<&str>,
    frame: &Path,
) -> Result<ExitCode, Failure> {
    let framed = |index: usize| matches!(config.listeners[index].protocol, Protocol::Frame(_));
    let listener = chosen(config, listener, framed)?;
    let bytes = read_bytes(frame, explain::input_len_max(config, listener))?;
    shown(explain::explain(config, listener, &bytes))
}

/// Bytes as they are in a file, or in hexadecimal on standard input for "-".
fn read_bytes(file: &Path, len_max: usize) -> Result<Vec<u8>, Failure> {
    if file.as_os_str() == "-" {
        // Two digits for a byte, and as much white space.
        let text = read_at_most(io::stdin().lock(), len_max.saturating_mul(4));
        let text = text.and_then(|text| String::from_utf8(text).map_err(io::Error::other));
        let text = text.map_err(|error| Failure::Input("standard input".to_string(), error))?;
        return decode_hexadecimal(&text);
    }
    let read = File::open(file).and_then(|file| read_at_most(file, len_max));
    read.map_err(|error| Failure::Input(file.display().to_string(), error))
}

/// Longest head worth explaining, bytes; no `max_head` is larger.
const HEAD_LEN_MAX: usize = 1 << 20;

fn explain_head(
    config: &Config,
    listener: Option<&str>,
    (head, client): (&Path, Option<SocketAddr>),
) -> Result<ExitCode, Failure> {
    let is_http = |index: usize| matches!(config.listeners[index].protocol, Protocol::Http(_));
    let listener = chosen(config, listener, is_http)?;
    let bytes = if head.as_os_str() == "-" {
        let read = read_at_most(io::stdin().lock(), HEAD_LEN_MAX);
        read.map_err(|error| Failure::Input("standard input".to_string(), error))?
    } else {
        let read = File::open(head).and_then(|file| read_at_most(file, HEAD_LEN_MAX));
        read.map_err(|error| Failure::Input(head.display().to_string(), error))?
    };
    let bytes = with_line_ends(bytes);
    let page = explain::explain_http(config, listener, &bytes, client);
    write_result(&page.map_err(Failure::Explain)?)?;
    Ok(ExitCode::SUCCESS)
}

/// What an editor or a here-document makes has LF where HTTP has CRLF, and seldom the empty line.
fn with_line_ends(bytes: Vec<u8>) -> Vec<u8> {
    if bytes.windows(2).any(|pair| pair == b"\r\n") {
        return bytes;
    }
    let mut lines = Vec::with_capacity(bytes.len() + 64);
    for line in bytes.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty()) {
        lines.extend_from_slice(line);
        lines.extend_from_slice(b"\r\n");
    }
    lines.extend_from_slice(b"\r\n");
    lines
}

/// Bytes from pairs of hexadecimal digits; white space is ignored everywhere.
fn decode_hexadecimal(text: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut high = None;
    for (index, character) in text.chars().enumerate() {
        if character.is_whitespace() {
            continue;
        }
        let digit = character.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let digit = digit.ok_or(Failure::NotHexadecimal(character, index + 1))?;
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    if high.is_some() { Err(Failure::HexadecimalOdd) } else { Ok(bytes) }
}
