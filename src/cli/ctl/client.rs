//! The gateway as `ctl` sees it: one request, one answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use corelane::config::{self, Address, Environment, StoreTls, Tokens};
use corelane::fetch::{Ask, FetchError, Fetcher, Following, Site};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::GatewayArguments;
use crate::cli::Failure;

/// A reload waits for stores, and for addresses that are being given up.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A gateway on this machine or in this network answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Ten thousand sessions, with room to spare.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// A gateway.
pub struct Client {
    runtime: Runtime,
    fetcher: Fetcher,
    token: Option<HeaderValue>,
}

/// An answer that the gateway gave on purpose.
pub struct Reply {
    /// Whether it did what was asked.
    pub is_good: bool,
    /// The answer as it came.
    pub text: String,
    /// The same, read.
    pub value: Value,
}

impl Client {
    /// Finds out where to ask; nobody is asked yet.
    pub fn new(arguments: GatewayArguments) -> Result<Client, Failure> {
        let GatewayArguments { config, admin, token_file, json: _ } = arguments;
        let mut known = None;
        if let Some(file) = &config {
            let environment = Environment::of_process().map_err(Failure::Environment)?;
            known = config::reach(file, &environment).map_err(Failure::Config)?;
            if known.is_none() {
                let place = file.display().to_string();
                let why = "has no [admin] table with an address to listen on".to_owned();
                return Err(Failure::Unasked(place, why));
            }
        }
        let url = match (&known, admin) {
            (_, Some(admin)) => url_of_text(&admin),
            (Some(known), None) => url_of(&known.listen),
            (None, None) => {
                let why = "say which with -c FILE or --admin ADDRESS".to_owned();
                return Err(Failure::Unasked("no gateway is named".to_owned(), why));
            }
        };
        let unasked = |error: FetchError| Failure::Unasked(url.clone(), error.to_string());
        let site = Site::parse(&url, &StoreTls::default()).map_err(unasked)?;
        let token_file = token_file.or_else(|| known.and_then(|known| known.token_file));
        let token = token_file.map(|file| {
            let unusable = |why: String| Failure::Unasked(file.display().to_string(), why);
            let tokens = Tokens::read(&file).map_err(|error| unusable(error.to_string()))?;
            let value = format!("Bearer {}", tokens.first().reveal());
            let mut value =
                HeaderValue::from_str(&value).map_err(|error| unusable(error.to_string()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::Input("the network".to_owned(), e))?;
        Ok(Client { runtime, fetcher: Fetcher::new(site), token: token.transpose()? })
    }

    /// Asks once.
    pub fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Reply, Failure> {
        let ask = self.question(method, path, body);
        let answer = self.runtime.block_on(self.fetcher.fetch(&ask));
        let answer = answer.map_err(|error| self.unasked(&error))?;
        self.reply(answer.status, &answer.body)
    }

    /// Does nothing for a while.
    pub fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Asks for a stream, and hands each piece of it to `take` until that has enough.
    pub fn follow(
        &mut self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<bool, Failure>,
    ) -> Result<Followed, Failure> {
        let ask = self.question(Method::GET, path, None);
        let unasked =
            |site: &Site, error: &FetchError| Failure::Unasked(site.to_string(), error.to_string());
        let Client { runtime, fetcher, .. } = self;
        let site = fetcher.site().clone();
        let whole = runtime.block_on(async {
            let mut following = fetcher.follow(&ask).await.map_err(|e| unasked(&site, &e))?;
            if !following.status.is_success() {
                return whole(&mut following).await.map_err(|e| unasked(&site, &e)).map(Some);
            }
            loop {
                match following.next().await {
                    Ok(Some(piece)) => {
                        if !take(&piece)? {
                            return Ok(None);
                        }
                    }
                    Ok(None) => {
                        let why = "the gateway ended the stream".to_owned();
                        return Err(Failure::Unasked(site.to_string(), why));
                    }
                    Err(error) => return Err(unasked(&site, &error)),
                }
            }
        })?;
        match whole {
            None => Ok(Followed::Enough),
            Some((status, body)) => self.reply(status, &body).map(Followed::Refused),
        }
    }

    fn question(&self, method: Method, path: &str, body: Option<Value>) -> Ask {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if let Some(token) = &self.token {
            headers.push((AUTHORIZATION, token.clone()));
        }
        if body.is_some() {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        Ask {
            method,
            path: path.to_owned(),
            headers,
            body: body.map_or_else(Bytes::new, |body| body.to_string().into()),
            connect_timeout: CONNECT_TIMEOUT,
            timeout: TIMEOUT,
            body_max: ANSWER_LEN_MAX,
        }
    }

    /// Tells a refusal from a gateway that cannot answer.
    fn reply(&self, status: StatusCode, body: &[u8]) -> Result<Reply, Failure> {
        let text = String::from_utf8_lossy(body).into_owned();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_refused = matches!(status.as_u16(), 400 | 404 | 405 | 409 | 415 | 422);
        if status.is_success() || is_refused && value["detail"].is_string() {
            return Ok(Reply { is_good: status.is_success(), text, value });
        }
        let detail = value["detail"].as_str().unwrap_or("no reason is given");
        let why = format!("{}: {detail}", status.as_str());
        Err(Failure::Unasked(self.fetcher.site().to_string(), why))
    }

    fn unasked(&self, error: &FetchError) -> Failure {
        Failure::Unasked(self.fetcher.site().to_string(), error.to_string())
    }
}

/// How a stream ended.
pub enum Followed {
    /// Enough was seen.
    Enough,
    /// It never began.
    Refused(Reply),
}

async fn whole(following: &mut Following) -> Result<(StatusCode, Vec<u8>), FetchError> {
    let mut body = Vec::new();
    while let Some(piece) = following.next().await? {
        if body.len() + piece.len() > ANSWER_LEN_MAX {
            return Err(FetchError::TooLarge(ANSWER_LEN_MAX));
        }
        body.extend_from_slice(&piece);
    }
    Ok((following.status, body))
}

/// Who listens on every address listens on loopback, too.
fn url_of(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Tcp(address) => {
            let mut address = *address;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            format!("http://{address}")
        }
    }
}

fn url_of_text(text: &str) -> String {
    match text.contains("://") || text.starts_with("unix:") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    }
}
