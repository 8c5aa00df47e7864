//! HTTP/1.1 requests of the control plane: to stores and to whatever else is asked over TCP, TLS
//! or a UNIX socket. One request at a time on one connection, which is kept for the next. Every
//! request has deadlines and a bound on the answer.

mod connect;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};

use crate::config::StoreTls;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Site {
    place: Place,
    tls: Option<StoreTls>,
    authority: String,
    base_path: String,
}

#[derive(Debug, Clone)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Site {
    /// Reads `http://HOST[:PORT][/PATH]`, the same with `https`, or `unix:/PATH`. A path is put
    /// before the path of every request.
    ///
    /// # Errors
    /// [`FetchError::Site`] says what is wrong.
    pub fn parse(url: &str, tls: &StoreTls) -> Result<Site, FetchError> {
        let wrong = |why: &str| FetchError::Site(format!("{url:?} {why}"));
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Site {
                place: Place::Unix(PathBuf::from(path)),
                tls: None,
                authority: "localhost".to_owned(),
                base_path: String::new(),
            });
        }
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("is no URL: {error}")))?;
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(tls.clone()), 443),
            _ => return Err(wrong("begins with neither http:// nor https:// nor unix:")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong("holds more than a host, a port and a path"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(port);
        Ok(Site {
            place: Place::Tcp { host, port },
            tls,
            authority: authority.as_str().to_owned(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { .. } => f.write_str(&self.authority),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Repeated on a new connection if the kept one was closed meanwhile, when that is safe.
    pub method: Method,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Beside Host and User-Agent.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// May be empty.
    pub body: Bytes,
    /// How long connecting, with TLS, may take.
    pub connect_timeout: Duration,
    /// How long everything may take, connecting and the last byte of the answer included.
    pub timeout: Duration,
    /// Largest body of an answer, in bytes.
    pub body_max: usize,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// Of the status line.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// Whole.
    pub body: Bytes,
}

/// An answer whose body is still coming. Dropping it closes the connection.
#[derive(Debug)]
pub struct Following {
    /// Of the status line.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    body: Incoming,
    #[expect(dead_code, reason = "the body comes over it")]
    connection: Connection,
}

impl Following {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`FetchError::Exchange`] when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(FetchError::Exchange)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum FetchError {
    /// The URL is none that can be asked.
    Site(String),
    /// No connection.
    Connect(io::Error),
    /// The files for TLS are no good.
    Tls(String),
    /// The connection broke, or what came is not HTTP.
    Exchange(hyper::Error),
    /// Not in time: connecting or answering, and how long was waited.
    Timeout(&'static str, Duration),
    /// The body is larger than this, in bytes.
    TooLarge(usize),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Site(what) | FetchError::Tls(what) => f.write_str(what),
            FetchError::Connect(error) => write!(f, "cannot connect: {error}"),
            FetchError::Exchange(error) => {
                error.fmt(f)?;
                // hyper names the kind and leaves the reason to the source.
                match std::error::Error::source(error) {
                    Some(source) => write!(f, ": {source}"),
                    None => Ok(()),
                }
            }
            FetchError::Timeout(what, waited) => write!(f, "{what} took longer than {waited:?}"),
            FetchError::TooLarge(limit) => write!(f, "the answer is larger than {limit} bytes"),
        }
    }
}

impl std::error::Error for FetchError {}

/// A site and the connection that is kept to it.
#[derive(Debug)]
pub struct Fetcher {
    site: Site,
    idle: Option<Connection>,
}

/// An open connection; its driver ends with it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Fetcher {
    /// Connects with the first request.
    pub fn new(site: Site) -> Fetcher {
        Fetcher { site, idle: None }
    }

    /// Where requests go.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Asks, and waits for the whole answer. Dropping the future closes the connection.
    ///
    /// # Errors
    /// See [`FetchError`]. A status is no error.
    pub async fn fetch(&mut self, ask: &Ask) -> Result<Answer, FetchError> {
        let Ok(result) = tokio::time::timeout(ask.timeout, self.attempt(ask)).await else {
            return Err(FetchError::Timeout("the answer", ask.timeout));
        };
        result
    }

    /// Asks, and gives back the answer as soon as its head has come, whose body may have no end.
    /// The deadline of `ask` and its bound count for the head only.
    ///
    /// # Errors
    /// See [`FetchError`]. A status is no error.
    pub async fn follow(&mut self, ask: &Ask) -> Result<Following, FetchError> {
        let asking = async {
            let mut connection = self.connect(ask).await?;
            let request = self.request(ask)?;
            connection.sender.ready().await.map_err(FetchError::Exchange)?;
            let response = connection.sender.send_request(request).await;
            let (head, body) = response.map_err(FetchError::Exchange)?.into_parts();
            Ok(Following { status: head.status, headers: head.headers, body, connection })
        };
        match tokio::time::timeout(ask.timeout, asking).await {
            Ok(result) => result,
            Err(_elapsed) => Err(FetchError::Timeout("the answer", ask.timeout)),
        }
    }

    async fn connect(&self, ask: &Ask) -> Result<Connection, FetchError> {
        let connecting = connect::open(&self.site.place, self.site.tls.as_ref());
        match tokio::time::timeout(ask.connect_timeout, connecting).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(FetchError::Timeout("connecting", ask.connect_timeout)),
        }
    }

    async fn attempt(&mut self, ask: &Ask) -> Result<Answer, FetchError> {
        // Taken out while in use: a request that is given up leaves no half-read connection here.
        let kept = self.idle.take().filter(|kept| !kept.sender.is_closed());
        if let Some(kept) = kept
            && ask.method.is_safe()
        {
            match self.exchange(kept, ask).await {
                // Closed by the other side just as it was used: nothing was answered.
                Err(FetchError::Exchange(error))
                    if error.is_incomplete_message()
                        || error.is_canceled()
                        || error.is_closed() => {}
                result => return result,
            }
        }
        let opened = self.connect(ask).await?;
        self.exchange(opened, ask).await
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        ask: &Ask,
    ) -> Result<Answer, FetchError> {
        connection.sender.ready().await.map_err(FetchError::Exchange)?;
        let request = self.request(ask)?;
        let response = connection.sender.send_request(request).await;
        let answer = read(response.map_err(FetchError::Exchange)?, ask.body_max).await?;
        self.idle = Some(connection);
        Ok(answer)
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, FetchError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", self.site.base_path, ask.path))
            .header(HOST, &self.site.authority)
            .header(USER_AGENT, concat!("corelane/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let built = request.body(Full::new(ask.body.clone()));
        built.map_err(|error| FetchError::Site(format!("{:?}: {error}", ask.path)))
    }
}

async fn read(response: Response<Incoming>, body_max: usize) -> Result<Answer, FetchError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(FetchError::Exchange)?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > body_max - body.len() {
            return Err(FetchError::TooLarge(body_max));
        }
        body.extend_from_slice(data);
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites() {
        let parse = |url: &str| Site::parse(url, &StoreTls::default());
        for (url, host, port, base_path, is_tls) in [
            ("http://127.0.0.1:8500", "127.0.0.1", 8500, "", false),
            ("http://consul.example", "consul.example", 80, "", false),
            ("https://consul.example/", "consul.example", 443, "", true),
            ("https://[::1]:1/consul/", "::1", 1, "/consul", true),
        ] {
            let site = parse(url).unwrap();
            let Place::Tcp { host: read_host, port: read_port } = &site.place else { panic!() };
            assert_eq!((read_host.as_str(), *read_port), (host, port), "{url}");
            assert_eq!((site.base_path.as_str(), site.tls.is_some()), (base_path, is_tls), "{url}");
        }
        assert_eq!(parse("unix:/run/a.sock").unwrap().to_string(), "unix:/run/a.sock");
        for url in ["", "127.0.0.1:8500", "ftp://a", "http://a:b@c", "http://a/?b", "http://", "/"]
        {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, FetchError::Site(_)), "{url}: {error}");
        }
    }
}
