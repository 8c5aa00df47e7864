//! URLs of stores: which forms there are, and the credentials taken out of them.

use percent_encoding::percent_decode_str;
use url::{ParseError, Url};

use super::Secret;
use super::fault::{Problem, nearest};

/// Where a Redis is, with the credentials that stood in its URL.
#[derive(Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Without credentials.
    pub url: String,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// For AUTH.
    pub username: Option<String>,
    /// For AUTH.
    pub password: Option<Secret>,
}

const REDIS_FORMS: &str = "\"redis://HOST:PORT/DB\", \"rediss://HOST:PORT/DB\" (TLS) or \
                           \"redis+unix:///PATH?db=DB\"";
const HTTP_FORMS: &str = "\"http://HOST:PORT\" or \"https://HOST:PORT\"";

/// Reads the URL of a Redis. Problems repeat nothing of it: it may hold a password.
pub fn redis(text: &str) -> Result<RedisUrl, Problem> {
    let mut url = parsed(text, &["redis", "rediss", "redis+unix"], REDIS_FORMS)?;
    let problem = |what: &str| Problem::new(what, REDIS_FORMS).without_found();
    if url.fragment().is_some() {
        // Clients take "#insecure" for leave not to verify certificates.
        return Err(problem("\"#\" in a URL"));
    }
    let (mut username, mut password) = userinfo(&url)?;
    if url.scheme() == "redis+unix" {
        if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().len() < 2 {
            return Err(problem("not the path of a UNIX socket"));
        }
        let mut database = None;
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "db" => database = Some(value.into_owned()),
                "user" => username = Some(value.into_owned()),
                "pass" => password = Some(Secret::new(value.into_owned())),
                _ => return Err(problem("an unknown parameter behind \"?\"")),
            }
        }
        let database = database.map(|text| database_number(&text)).transpose()?;
        let query = database.map(|database| format!("db={database}"));
        url.set_query(query.as_deref());
        return Ok(RedisUrl { url: url.to_string(), tls: false, username, password });
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err(problem("no host and port"));
    }
    if url.query().is_some() {
        return Err(problem("parameters behind \"?\""));
    }
    match url.path().trim_start_matches('/') {
        "" => {}
        database => {
            database_number(database)?;
        }
    }
    // Both were found to be settable: there is a host.
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    if cleared.is_err() {
        return Err(problem("credentials that cannot be taken out"));
    }
    let tls = url.scheme() == "rediss";
    Ok(RedisUrl { url: url.to_string(), tls, username, password })
}

/// Reads the URL of a store that speaks HTTP, without a "/" at its end; says whether it is https.
pub fn http(text: &str) -> Result<(String, bool), Problem> {
    let url = parsed(text, &["http", "https"], HTTP_FORMS)?;
    let problem = |what: &str| Problem::new(what, HTTP_FORMS).without_found();
    if !url.username().is_empty() || url.password().is_some() {
        return Err(problem("credentials in a URL, where they show in logs"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(problem("\"?\" or \"#\" in a URL"));
    }
    if url.port() == Some(0) {
        return Err(problem("port 0"));
    }
    Ok((url.as_str().trim_end_matches('/').to_string(), url.scheme() == "https"))
}

fn parsed(text: &str, schemes: &[&str], forms: &str) -> Result<Url, Problem> {
    let without = || Problem::new("not the URL of such a store", forms);
    let Some((scheme, rest)) = text.split_once("://") else {
        let first = schemes.first().copied().unwrap_or_default();
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]/".contains(&b));
        let near = (plain && !text.is_empty()).then(|| format!("\"{first}://{text}\""));
        return Err(without().without_found().near(near));
    };
    if !schemes.contains(&scheme) {
        let near = nearest(scheme, schemes.iter().copied());
        let plain = !rest.contains('@') && !rest.contains('?');
        let near = near.filter(|_| plain).map(|near| format!("\"{near}://{rest}\""));
        return Err(without().near(near));
    }
    Url::parse(text).map_err(|error: ParseError| {
        Problem::new(format!("not a URL ({error})"), forms).without_found()
    })
}

fn userinfo(url: &Url) -> Result<(Option<String>, Option<Secret>), Problem> {
    let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(error) => {
            let what = format!("credentials that are not UTF-8 ({error})");
            Err(Problem::new(what, REDIS_FORMS).without_found())
        }
    };
    let username = match url.username() {
        "" => None,
        username => Some(decoded(username)?),
    };
    let password = url.password().map(decoded).transpose()?;
    Ok((username, password.map(Secret::new)))
}

fn database_number(text: &str) -> Result<u32, Problem> {
    text.parse().map_err(|error| {
        let what = format!("the database is no number ({error})");
        Problem::new(what, REDIS_FORMS).without_found()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_a_url() {
        let cases = [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0", None, None),
            ("redis://:p%40ss@h:1", "redis://h:1", None, Some("p@ss")),
            ("rediss://u:p@[::1]:6380/3", "rediss://[::1]:6380/3", Some("u"), Some("p")),
            ("redis+unix:///run/r.sock", "redis+unix:///run/r.sock", None, None),
            ("redis+unix:///r?db=2&user=u&pass=p", "redis+unix:///r?db=2", Some("u"), Some("p")),
        ];
        for (text, url, username, password) in cases {
            let read = redis(text).unwrap_or_else(|problem| panic!("{text}: {problem:?}"));
            assert_eq!(read.url, url);
            assert_eq!(read.username.as_deref(), username, "{text}");
            assert_eq!(read.password.as_ref().map(Secret::reveal), password, "{text}");
            assert_eq!(read.tls, text.starts_with("rediss"));
            assert!(!format!("{read:?}").contains("p@ss"));
        }
    }

    #[test]
    fn what_is_no_url_of_a_redis_is_refused() {
        for text in [
            "",
            "redis://",
            "redis:///0",
            "redis://h:0",
            "redis://h:99999",
            "redis://h/zero",
            "redis://h/0?protocol=3",
            "rediss://h/0#insecure",
            "redis+unix://host/path",
            "redis+unix:///",
            "redis+unix:///r?x=1",
            "redis+unix:///r?db=x",
            "http://h",
            "redis://%ff:x@h",
        ] {
            assert!(redis(text).is_err(), "{text}");
        }
        let near = |text| redis(text).expect_err("no URL").near;
        assert_eq!(near("127.0.0.1:6379"), Some("\"redis://127.0.0.1:6379\"".to_string()));
        assert_eq!(near("reds://h:1"), Some("\"redis://h:1\"".to_string()));
        assert_eq!(near("reds://:secret@h:1"), None);
    }

    #[test]
    fn an_http_store_has_no_credentials_in_its_url() {
        assert_eq!(http("http://h:8500/"), Ok(("http://h:8500".to_string(), false)));
        assert_eq!(http("https://h/consul/"), Ok(("https://h/consul".to_string(), true)));
        for text in ["h:8500", "http://", "http://u:p@h", "http://h?a", "http://h#a", "http://h:0"]
        {
            assert!(http(text).is_err(), "{text}");
        }
    }
}
