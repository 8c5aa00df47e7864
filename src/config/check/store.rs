//! `[pool.NAME.source]`: where each kind's store is, and what it wants to know of us.

use std::fs::File;
use std::path::PathBuf;

use super::Checker;
use super::source::port;
use crate::config::document::Path;
use crate::config::fault::Problem;
use crate::config::shape::Slot;
use crate::config::value::{Flag, Resolver, SecretText};
use crate::config::{
    ConsulSource, DnsRecords, DnsSource, EtcdSource, RedisSource, Secret, SourceKind, StoreTls,
    limits, raw, store_url,
};
use crate::input::read_at_most;

/// Longest name of a thing in a store, bytes.
const NAME_LEN_MAX: usize = 512;
/// Longest file of secrets or certificates, bytes: a bundle of all public authorities is smaller.
const SECRET_FILE_LEN_MAX: usize = 1 << 20;
/// Longest password, bytes.
const PASSWORD_LEN_MAX: usize = 4_096;

/// TLS files as written.
pub(super) struct TlsFiles {
    pub ca: Slot<String>,
    pub cert: Slot<String>,
    pub key: Slot<String>,
}

/// Credentials as written.
pub(super) struct Credentials {
    pub username: Slot<String>,
    pub password: Slot<SecretText>,
    pub password_file: Slot<String>,
}

impl Checker<'_> {
    pub(super) fn file_source(&mut self, raw: raw::Source, path: &Path) -> Option<SourceKind> {
        let valid = "the path of a TOML or JSON file";
        let path = path.key("path");
        let file = self.required(raw.path, &path, valid)?;
        if file.is_empty() || file.ends_with('/') || file.contains('\0') {
            self.wrong(&path, Problem::new("not the path of a file", valid));
            return None;
        }
        // It need not be there yet: it is waited for.
        Some(SourceKind::File { path: PathBuf::from(file) })
    }

    pub(super) fn redis_source(&mut self, raw: raw::Source, path: &Path) -> Option<SourceKind> {
        let url = self.url(raw.url, &path.key("url"), store_url::redis);
        let key = self.stored_name(raw.key, &path.key("key"), "the name of a hash");
        let credentials = Credentials {
            username: raw.username,
            password: raw.password,
            password_file: raw.password_file,
        };
        let credentials = self.redis_credentials(credentials, url.as_ref(), path);
        let files =
            TlsFiles { ca: raw.tls_ca_file, cert: raw.tls_cert_file, key: raw.tls_key_file };
        let tls = self.tls(files, path, url.as_ref().map(|url| url.tls));
        let (username, password) = credentials?;
        let source = RedisSource { url: url?.url, key: key?, username, password, tls: tls? };
        Some(SourceKind::Redis(source))
    }

    /// Credentials of a Redis, from its URL or from keys of their own.
    pub(super) fn redis_credentials(
        &mut self,
        written: Credentials,
        url: Option<&store_url::RedisUrl>,
        path: &Path,
    ) -> Option<(Option<String>, Option<Secret>)> {
        let credentials = self.credentials(written, path);
        let (url, (mut username, mut password)) = (url?, credentials?);
        let twice = (url.username.is_some() && username.is_some())
            || (url.password.is_some() && password.is_some());
        if twice {
            let what = "credentials in the URL and in keys of their own";
            let problem = Problem::new(what, "one of both, best password_file").without_found();
            self.relation(&path.key("url"), problem);
        }
        username = username.or_else(|| url.username.clone());
        password = password.or_else(|| url.password.clone());
        if username.is_some() && password.is_none() {
            self.missing(&path.key("password"), "the password of this user, or password_file");
        }
        Some((username, password))
    }

    pub(super) fn etcd_source(&mut self, raw: raw::Source, path: &Path) -> Option<SourceKind> {
        let endpoints = self.endpoints(raw.endpoints, &path.key("endpoints"));
        let valid = "what the keys begin with, such as \"/corelane/c2s/\"";
        let prefix = self.stored_name(raw.prefix, &path.key("prefix"), valid);
        let credentials = Credentials {
            username: raw.username,
            password: raw.password,
            password_file: raw.password_file,
        };
        let credentials = self.credentials(credentials, path);
        let secure = endpoints.as_ref().map(|(_, secure)| *secure);
        let files =
            TlsFiles { ca: raw.tls_ca_file, cert: raw.tls_cert_file, key: raw.tls_key_file };
        let tls = self.tls(files, path, secure);
        let credentials = match credentials? {
            (None, None) => None,
            (Some(username), Some(password)) => Some((username, password)),
            (Some(_), None) => {
                self.missing(&path.key("password"), "the password of this user, or password_file");
                None
            }
            (None, Some(_)) => {
                self.missing(&path.key("username"), "the user whose password this is");
                None
            }
        };
        let (endpoints, _) = endpoints?;
        Some(SourceKind::Etcd(EtcdSource { endpoints, prefix: prefix?, credentials, tls: tls? }))
    }

    pub(super) fn consul_source(&mut self, raw: raw::Source, path: &Path) -> Option<SourceKind> {
        let url = self.url(raw.url, &path.key("url"), store_url::http);
        let service = self.stored_name(raw.service, &path.key("service"), "a service's name");
        let tag = self.stored_name_if(raw.tag, &path.key("tag"), "a tag");
        let datacentre =
            self.stored_name_if(raw.datacentre, &path.key("datacentre"), "a datacentre's name");
        let token_file = self.readable_if(raw.token_file, &path.key("token_file"));
        let wait = self.within(raw.wait, &path.key("wait"), limits::CONSUL_WAIT);
        let max_lag = self.within(raw.max_lag, &path.key("max_lag"), limits::CONSUL_MAX_LAG);
        let files =
            TlsFiles { ca: raw.tls_ca_file, cert: raw.tls_cert_file, key: raw.tls_key_file };
        let tls = self.tls(files, path, url.as_ref().map(|(_, secure)| *secure));
        let (url, _) = url?;
        Some(SourceKind::Consul(ConsulSource {
            url,
            service: service?,
            tag: tag?,
            datacentre: datacentre?,
            token_file: token_file?,
            wait: wait?,
            max_lag: max_lag?,
            tls: tls?,
        }))
    }

    pub(super) fn dns_source(&mut self, raw: raw::Source, path: &Path) -> Option<SourceKind> {
        let valid = "a host's name; a name that ends in a dot is not searched for";
        let name_path = path.key("name");
        let name = self.required(raw.name, &name_path, valid).filter(|name| {
            let good = is_host_name(name);
            if !good {
                self.wrong(&name_path, Problem::new("not a name in DNS", valid));
            }
            good
        });
        let srv = self.or(raw.srv, &path.key("srv"), Flag(false));
        let port_path = path.key("port");
        let with_port = !matches!(raw.port, Slot::Absent);
        let port = port(self.within(raw.port, &port_path, limits::DNS_PORT));
        let records = match (srv?, port) {
            (Flag(true), _) if with_port => {
                let what = "has no meaning with srv = true: SRV records have ports";
                self.relation(&port_path, Problem::new(what, "one of both"));
                None
            }
            (Flag(true), _) => Some(DnsRecords::Services),
            (Flag(false), Some(port)) => Some(DnsRecords::Addresses { port }),
            (Flag(false), None) if with_port => None,
            (Flag(false), None) => {
                self.missing(&port_path, "the backends' port, or srv = true");
                None
            }
        };
        let resolvers_path = path.key("resolvers");
        let list = self.or(raw.resolvers, &resolvers_path, Vec::new())?;
        let (resolvers, complete) = self.entries(list, &resolvers_path);
        let min_path = path.key("min_ttl");
        let min_ttl = self.within(raw.min_ttl, &min_path, limits::DNS_MIN_TTL)?;
        let max_ttl = self.within(raw.max_ttl, &path.key("max_ttl"), limits::DNS_MAX_TTL)?;
        if min_ttl > max_ttl {
            self.relation(&min_path, Problem::new("longer than max_ttl", "at most max_ttl"));
        }
        let resolvers = resolvers.into_iter().map(|(_, Resolver(address))| address).collect();
        let source = DnsSource { name: name?, records: records?, resolvers, min_ttl, max_ttl };
        Some(SourceKind::Dns(source)).filter(|_| complete)
    }

    pub(super) fn url<T>(
        &mut self,
        slot: Slot<SecretText>,
        path: &Path,
        read: fn(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let SecretText(text) = self.required(slot, path, "the store's URL")?;
        match read(&text) {
            Ok(url) => Some(url),
            Err(problem) => {
                self.wrong(path, problem);
                None
            }
        }
    }

    /// URLs, and whether any is https.
    fn endpoints(
        &mut self,
        slot: Slot<Vec<Slot<SecretText>>>,
        path: &Path,
    ) -> Option<(Vec<String>, bool)> {
        let valid = "a list of URLs, such as [\"http://10.0.0.1:2379\"]";
        let list = self.required(slot, path, valid)?;
        if list.is_empty() {
            self.wrong(path, Problem::new("no endpoints", valid));
            return None;
        }
        let (entries, complete) = self.entries(list, path);
        let count = entries.len();
        let mut endpoints = Vec::new();
        let mut secure = false;
        for (path, SecretText(text)) in entries {
            match store_url::http(&text) {
                Ok((endpoint, _)) if endpoints.contains(&endpoint) => {
                    self.relation(&path, Problem::new("listed twice", "each endpoint once"));
                }
                Ok((endpoint, tls)) => {
                    endpoints.push(endpoint);
                    secure |= tls;
                }
                Err(problem) => self.wrong(&path, problem),
            }
        }
        (complete && endpoints.len() == count).then_some((endpoints, secure))
    }

    fn stored_name(&mut self, slot: Slot<String>, path: &Path, valid: &str) -> Option<String> {
        let name = self.required(slot, path, valid)?;
        let good = (1..=NAME_LEN_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        if !good {
            let what = "empty, too long, or with control characters";
            self.wrong(path, Problem::new(what, format!("{valid}, 1 to {NAME_LEN_MAX} bytes")));
        }
        Some(name).filter(|_| good)
    }

    /// `Some(None)` when it is not written.
    fn stored_name_if(
        &mut self,
        slot: Slot<String>,
        path: &Path,
        valid: &str,
    ) -> Option<Option<String>> {
        match slot {
            Slot::Absent => Some(None),
            slot => self.stored_name(slot, path, valid).map(Some),
        }
    }

    fn credentials(
        &mut self,
        raw: Credentials,
        path: &Path,
    ) -> Option<(Option<String>, Option<Secret>)> {
        let username = self.stored_name_if(raw.username, &path.key("username"), "a user's name");
        let (text_path, file_path) = (path.key("password"), path.key("password_file"));
        let both = !matches!(raw.password, Slot::Absent | Slot::Wrong(_))
            && !matches!(raw.password_file, Slot::Absent);
        if both {
            let what = "written beside password_file";
            self.relation(&text_path, Problem::new(what, "one of both").without_found());
        }
        let text = match raw.password {
            Slot::Absent => Some(None),
            slot => self.take(slot, &text_path).map(|SecretText(text)| Some(text)),
        };
        let file = match raw.password_file {
            Slot::Absent => Some(None),
            slot => {
                let file = self.take(slot, &file_path);
                file.and_then(|file| self.password_in(&file, &file_path)).map(Some)
            }
        };
        let password = text?.or(file?);
        if password.as_ref().is_some_and(|text| !(1..=PASSWORD_LEN_MAX).contains(&text.len())) {
            let valid = format!("1 to {PASSWORD_LEN_MAX} bytes");
            let problem = Problem::new("not usable as a password", valid).without_found();
            self.wrong(&text_path, problem);
            return None;
        }
        Some((username?, password.map(Secret::new)))
    }

    /// What a password file holds, without the end of its line.
    fn password_in(&mut self, file: &str, path: &Path) -> Option<String> {
        let bytes = self.readable(file, path)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let what = format!("the file is not UTF-8 ({})", error.utf8_error());
                self.wrong(path, Problem::new(what, "a file with a password"));
                return None;
            }
        };
        let password = text.strip_suffix('\n').unwrap_or(&text);
        let password = password.strip_suffix('\r').unwrap_or(password);
        if password.is_empty() {
            self.wrong(path, Problem::new("the file is empty", "a file with a password"));
            return None;
        }
        Some(password.to_string())
    }

    pub(super) fn tls(
        &mut self,
        raw: TlsFiles,
        path: &Path,
        secure: Option<bool>,
    ) -> Option<StoreTls> {
        let keys = ["tls_ca_file", "tls_cert_file", "tls_key_file"];
        let [ca_path, cert_path, key_path] = keys.map(|key| path.key(key));
        if secure == Some(false) {
            for (slot, path) in
                [(&raw.ca, &ca_path), (&raw.cert, &cert_path), (&raw.key, &key_path)]
            {
                if !matches!(slot, Slot::Absent) {
                    let what = "has no meaning: nothing is encrypted";
                    self.relation(path, Problem::new(what, "a URL with rediss:// or https://"));
                }
            }
        }
        let ca_file = self.readable_if(raw.ca, &ca_path);
        let (with_cert, with_key) =
            (!matches!(raw.cert, Slot::Absent), !matches!(raw.key, Slot::Absent));
        let cert = self.readable_if(raw.cert, &cert_path);
        let key = self.readable_if(raw.key, &key_path);
        if with_cert && !with_key {
            self.missing(&key_path, "the file with the certificate's key");
        } else if with_key && !with_cert {
            self.missing(&cert_path, "the file with the key's certificate");
        }
        Some(StoreTls { ca_file: ca_file?, client: cert?.zip(key?) })
    }

    /// `Some(None)` when it is not written.
    fn readable_if(&mut self, slot: Slot<String>, path: &Path) -> Option<Option<PathBuf>> {
        if matches!(slot, Slot::Absent) {
            return Some(None);
        }
        let file = self.take(slot, path)?;
        self.readable(&file, path)?;
        Some(Some(PathBuf::from(file)))
    }

    /// What a file holds that has to be there at start.
    pub(super) fn readable(&mut self, file: &str, path: &Path) -> Option<Vec<u8>> {
        let read = std::fs::metadata(file).and_then(|about| match about.is_file() {
            // Opening a pipe would wait for somebody to write.
            false => Err(std::io::Error::other("not a regular file")),
            true => read_at_most(File::open(file)?, SECRET_FILE_LEN_MAX),
        });
        match read {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                let what = format!("cannot be read ({error})");
                self.wrong(path, Problem::new(what, "a file that this user may read"));
                None
            }
        }
    }
}

pub(super) fn is_host_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    labels.len() <= 253
        && labels.split('.').all(good)
        // Four numbers are an address that somebody took for a name.
        && labels.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_dns() {
        let long = format!("{}.b", "a".repeat(64));
        for name in ["a", "a.b", "a.b.", "_xmpp._tcp.example", "3-x.y"] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", ".", "a..b", "a b", "10.0.0.1", "a:80", "ü", "a.b..", &long] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
