//! What answers callers: HTTP with what was received, WebSocket with the very message.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as Asked, Response as Granted,
};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::check::Echo;
use super::{BACKEND_HEADER, REQUEST_HEADER};
use crate::answer::Ended;
use crate::backend::Server;
use crate::units::Fault;

/// Answers the requests of one connection.
pub async fn http(server: &Rc<Server>, stream: TcpStream) -> Ended {
    if server.fault == Some(Fault::Reset) {
        return reset(stream).await;
    }
    let name = server.name_on(&stream);
    let served = std::cell::Cell::new(0);
    let service = service_fn(async |request| {
        served.set(served.get() + 1);
        answer(server, (&name, served.get()), request).await
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    match connection {
        Ok(()) if closes_after(server, served.get()) => Ended::Fault,
        Ok(()) => Ended::Fin,
        Err(_) => Ended::Error,
    }
}

fn closes_after(server: &Server, served: u64) -> bool {
    matches!(server.fault, Some(Fault::CloseAfter(most)) if served >= most)
}

async fn answer(
    server: &Server,
    (name, served): (&str, u64),
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // A body that breaks off ends the connection, so that nobody reads what is answered here.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    hesitate(server).await;
    let headers = head.headers.iter();
    let echo = Echo {
        server: name.to_string(),
        method: head.method.to_string(),
        target: head.uri.to_string(),
        version: format!("{:?}", head.version),
        headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
        body_len: body.len() as u64,
        body_crc32: crc32fast::hash(&body),
    };
    // Strings and numbers: always JSON.
    let json = serde_json::to_vec(&echo).unwrap_or_default();
    server.note(|s| {
        s.requests += 1;
        s.bytes_in += body.len() as u64;
        s.bytes_out += json.len() as u64;
    });
    let mut response = Response::new(Full::new(Bytes::from(json)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_ourselves(name, &head.headers, fields);
    if closes_after(server, served) {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Says who answers which request.
fn name_ourselves(name: &str, asked: &HeaderMap, fields: &mut HeaderMap) {
    if let Ok(name) = HeaderValue::from_str(name) {
        fields.insert(BACKEND_HEADER, name);
    }
    if let Some(number) = asked.get(REQUEST_HEADER) {
        fields.insert(REQUEST_HEADER, number.clone());
    }
}

/// Upgrades one connection and sends back what comes.
pub async fn ws(server: &Server, stream: TcpStream) -> Ended {
    if server.fault == Some(Fault::Reset) {
        return reset(stream).await;
    }
    let name = server.name_on(&stream);
    #[expect(clippy::result_large_err, reason = "the library wants it so")]
    let granted = |asked: &Asked, mut granted: Granted| -> Result<Granted, ErrorResponse> {
        name_ourselves(&name, asked.headers(), granted.headers_mut());
        Ok(granted)
    };
    let Ok(mut socket) = accept_hdr_async(stream, granted).await else {
        server.note(|s| s.bad_frames += 1);
        return Ended::Error;
    };
    server.note(|s| s.upgrades += 1);
    let mut served = 0;
    loop {
        let message = match socket.next().await {
            Some(Ok(message)) => message,
            // Both close frames were exchanged.
            None | Some(Err(Error::ConnectionClosed)) => return Ended::Fin,
            Some(Err(error)) => {
                let broken = matches!(error, Error::Io(_));
                server.note(|s| s.bad_frames += u64::from(!broken));
                return Ended::Error;
            }
        };
        let is_data = matches!(message, Message::Text(_) | Message::Binary(_));
        let len = message.len() as u64;
        server.note(|s| {
            s.heartbeats += u64::from(matches!(message, Message::Ping(_)));
            s.data_frames += u64::from(is_data);
            s.bytes_in += len;
        });
        // The library answers pings and close frames, and sends that when we read on.
        if !is_data {
            continue;
        }
        hesitate(server).await;
        if socket.send(message).await.is_err() {
            return Ended::Error;
        }
        server.note(|s| s.bytes_out += len);
        served += 1;
        if closes_after(server, served) {
            // The other end may be gone already.
            let _ = socket.close(None).await;
            return Ended::Fault;
        }
    }
}

/// Does what the fault says before an answer.
async fn hesitate(server: &Server) {
    match server.fault {
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
        _ => {}
    }
}

/// Resets the connection upon its first bytes.
async fn reset(stream: TcpStream) -> Ended {
    let mut byte = [0];
    loop {
        match stream.peek(&mut byte).await {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    // Lingering for no time is a reset; without it the unread bytes make one, too.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    Ended::Fault
}
