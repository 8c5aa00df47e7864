//! The gateway's rules, applied to a request that we compose ourselves, without the gateway's
//! reading of requests, templates and arguments. Pure.
//!
//! We know what we send, so there is little to read. What the gateway would have to decode or
//! resolve first is left open instead of done a second time.

use corelane::http::rule::{Condition, Matches, PathPattern, Rule, Target};
use hyper::HeaderMap;

/// A request as far as rules look at it.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Every field, Host included.
    pub headers: HeaderMap,
}

/// What cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unclear;

type Values = Result<Vec<String>, Unclear>;

/// The pool that a request goes to, and what it is balanced by there. `None` when it goes to none,
/// when the key is not to be had, or when one or the other is unclear.
pub fn pool_and_key(rules: &[Rule], asking: &Asking) -> Option<(usize, String)> {
    for rule in rules {
        match asking.meets(&rule.matches) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(Unclear) => return None,
        }
        let Target::Pool { pool, key: Some(key) } = &rule.target else { return None };
        return Some((*pool, asking.fill(key.text())?));
    }
    None
}

impl Asking {
    fn path(&self) -> Result<&str, Unclear> {
        let path = self.target.split('?').next().unwrap_or_default();
        let plain = !path.contains('%') && !path.contains("//") && !path.contains("/.");
        plain.then_some(path).ok_or(Unclear)
    }

    fn host(&self) -> String {
        let authority = self.headers.get("host").and_then(|host| host.to_str().ok());
        let authority = authority.unwrap_or_default();
        let end = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
        authority[..end.unwrap_or(authority.len())].to_ascii_lowercase()
    }

    fn headers(&self, name: &str) -> Values {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().map(String::from).map_err(|_not_ascii| Unclear)).collect()
    }

    fn arguments(&self, name: &str) -> Values {
        let Some((_, query)) = self.target.split_once('?') else { return Ok(Vec::new()) };
        if query.contains(['%', '+']) {
            return Err(Unclear);
        }
        let arguments = query.split('&').map(|one| one.split_once('=').unwrap_or((one, "")));
        Ok(arguments.filter(|(key, _)| *key == name).map(|(_, value)| value.into()).collect())
    }

    fn cookies(&self, name: &str) -> Values {
        let headers = self.headers("cookie")?;
        let pairs = headers.iter().flat_map(|header| header.split(';'));
        let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        Ok(pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.into()).collect())
    }

    fn meets(&self, matches: &Matches) -> Result<bool, Unclear> {
        if !matches.methods.is_empty() && !matches.methods.contains(&self.method) {
            return Ok(false);
        }
        if matches.path != PathPattern::Any && !matches.path.matches(self.path()?.as_bytes()) {
            return Ok(false);
        }
        let host = self.host();
        if !matches.hosts.is_empty() && !matches.hosts.iter().any(|h| h.matches(host.as_bytes())) {
            return Ok(false);
        }
        for (name, condition) in &matches.headers {
            if !is_met(condition, &self.headers(name)?) {
                return Ok(false);
            }
        }
        for (name, condition) in &matches.arguments {
            // The gateway looks at the first of several.
            let mut values = self.arguments(name)?;
            values.truncate(1);
            if !is_met(condition, &values) {
                return Ok(false);
            }
        }
        for (name, condition) in &matches.cookies {
            let mut values = self.cookies(name)?;
            values.truncate(1);
            if !is_met(condition, &values) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A key: an expression, or a text with expressions in braces.
    fn fill(&self, template: &str) -> Option<String> {
        if !template.contains(['{', '}']) {
            return self.expression(template);
        }
        let (mut text, mut rest) = (String::new(), template);
        while let Some(place) = rest.find(['{', '}']) {
            text.push_str(&rest[..place]);
            rest = &rest[place..];
            if let Some(behind) = rest.strip_prefix("{{").or(rest.strip_prefix("}}")) {
                text.push_str(&rest[..1]);
                rest = behind;
                continue;
            }
            let (expression, behind) = rest.strip_prefix('{')?.split_once('}')?;
            text.push_str(&self.expression(expression)?);
            rest = behind;
        }
        text.push_str(rest);
        Some(text)
    }

    /// What stands for an expression; `None` if it is missing, or not ours to know.
    fn expression(&self, expression: &str) -> Option<String> {
        let (kind, name) = expression.split_once(':').unwrap_or((expression, ""));
        let value = match kind {
            "header" => match self.headers(name).ok()?.as_slice() {
                [only] => only.clone(),
                // The gateway refuses to choose among several.
                _ => return None,
            },
            "query" => self.arguments(name).ok()?.into_iter().next()?,
            "cookie" => self.cookies(name).ok()?.into_iter().next()?,
            "path" if name.is_empty() => self.path().ok()?.to_string(),
            "path" => self.path().ok()?.split('/').nth(name.parse().ok()?)?.to_string(),
            "host" => self.host(),
            "method" => self.method.clone(),
            "target" => self.target.clone(),
            "authority" => self.headers("host").ok()?.into_iter().next()?,
            _ => return None,
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

fn is_met(condition: &Condition, values: &[String]) -> bool {
    match (condition, values) {
        (Condition::Present, values) => !values.is_empty(),
        (Condition::Absent, values) => values.is_empty(),
        (Condition::Equals(text), [only]) => text == only,
        (Condition::Pattern(pattern), [only]) => pattern.matches(only.as_bytes()),
        (Condition::Equals(_) | Condition::Pattern(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane::http::rule::Statuses;
    use corelane::http::template::Template;

    fn rule(matches: Matches, pool: usize, key: &str) -> Rule {
        Rule {
            name: format!("to {pool}"),
            matches,
            target: Target::Pool { pool, key: Some(Template::parse_key(key).unwrap()) },
            statuses: Statuses { missing: 400, malformed: 400, not_found: 502, unavailable: 502 },
        }
    }

    fn asking(target: &str, headers: &[(&'static str, &str)]) -> Asking {
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), value.parse().unwrap())
        });
        Asking { method: "GET".into(), target: target.into(), headers: headers.collect() }
    }

    #[test]
    fn the_first_rule_that_matches_gives_pool_and_key() {
        let arguments = vec![("uid".into(), Condition::Present)];
        let only = Matches { arguments, path: PathPattern::Exact("/ws".into()), ..<_>::default() };
        let rules = [
            rule(only, 3, "query:uid"),
            rule(Matches::default(), 5, "{header:x-zone}-{cookie:sid}{{{path:2}}}@{host}"),
        ];
        let found = |asking| pool_and_key(&rules, &asking);
        assert_eq!(found(asking("/ws?a=1&uid=u7&uid=8", &[])), Some((3, "u7".into())));
        let headers = [("x-zone", "z"), ("cookie", "a=b; sid=s1"), ("host", "Example.ORG:81")];
        let key = "z-s1{two}@example.org".to_string();
        assert_eq!(found(asking("/one/two", &headers)), Some((5, key)));
        // Nothing to balance by; or something that is not ours to decode.
        assert_eq!(found(asking("/one/two", &[])), None);
        assert_eq!(found(asking("/ws?uid=%41", &headers)), None);
        assert_eq!(found(asking("/a/../ws?uid=1", &headers)), None);
    }
}
