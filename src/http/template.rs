//! Templates: texts with parts of a request in them, such as "zone{header:server}-{set:service}".

use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

use super::client::Request;
use super::fields::Once;
use super::target;
use super::value::{self, Purpose, Unfit};

/// A text with parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// One stretch of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// As it is written.
    Literal(String),
    /// What a request has there.
    Value(Expression),
}

/// Something that a request may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// `header:NAME`: the only field of this name.
    Header(String),
    /// `query:NAME`: the first argument of this name, decoded, see [`target::argument`].
    Query(String),
    /// `arg:NAME`: as nginx's `$arg_NAME`, see [`target::argument_raw`].
    Argument(String),
    /// `cookie:NAME`: the first cookie of this name.
    Cookie(String),
    /// `path:N`: the Nth segment of the path, from 1.
    Segment(usize),
    /// `path`: the path that rules compare, see [`target::path`].
    Path,
    /// `method`
    Method,
    /// `target`: as it was sent.
    Target,
    /// `host`: without port and in lower case, as nginx's `$host`.
    Host,
    /// `authority`: host and port as they were sent, as nginx's `$http_host`.
    Authority,
    /// `scheme`: "http" or "https".
    Scheme,
    /// `client_ip`
    ClientIp,
    /// `client_port`
    ClientPort,
    /// `request_id`: see [`Values::request_id`].
    RequestId,
    /// `backend`: the address that the request goes to.
    Backend,
    /// `key`: what the rule's own key, or a frame, said.
    Key,
    /// `set:NAME`: what the rule says for this name.
    Set(String),
}

/// What a template is filled from besides the request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'v> {
    /// Of `{key}`.
    pub key: Option<&'v [u8]>,
    /// Of `{set:NAME}`, in no particular order.
    pub set: &'v [(String, String)],
    /// Of `{backend}`.
    pub backend: Option<&'v str>,
    /// Of `{request_id}`.
    pub request_id: Option<&'v str>,
}

/// What was made of a template.
pub type Text = SmallVec<[u8; 64]>;

/// Why a template could not be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfilled<'t> {
    /// The part that it failed at; `None`: the whole.
    pub part: Option<&'t Expression>,
    /// How.
    pub gap: Gap,
}

/// What is wrong with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The request has no such thing.
    Missing,
    /// It has, but it cannot be used.
    Malformed(Unfit),
}

impl Gap {
    /// The stable name in logs; `missing` is that of a part which is not there.
    pub fn label(self, missing: &'static str) -> &'static str {
        match self {
            Gap::Missing => missing,
            Gap::Malformed(unfit) => unfit.label(),
        }
    }
}

/// Why a text is no template; `Display` says what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

/// What stands for itself, by its name.
const PLAIN: &[(&str, Expression)] = &[
    ("path", Expression::Path),
    ("method", Expression::Method),
    ("target", Expression::Target),
    ("host", Expression::Host),
    ("authority", Expression::Authority),
    ("scheme", Expression::Scheme),
    ("client_ip", Expression::ClientIp),
    ("client_port", Expression::ClientPort),
    ("request_id", Expression::RequestId),
    ("backend", Expression::Backend),
    ("key", Expression::Key),
];

/// Kinds of expressions, for those who write them.
pub const EXPRESSIONS_VALID: &str = "header:NAME, query:NAME, arg:NAME, cookie:NAME, path:NUMBER, \
                                     set:NAME, path, method, target, host, authority, scheme, \
                                     client_ip, client_port, request_id, backend, key";

impl Expression {
    /// Reads an expression as it stands between "{" and "}".
    ///
    /// # Errors
    /// When there is no such kind, or its name is not one.
    pub fn parse(text: &str) -> Result<Expression, TemplateError> {
        if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(plain.clone());
        }
        let unknown = || TemplateError(format!("no expression is called {text:?}"));
        let (kind, name) = text.split_once(':').ok_or_else(unknown)?;
        let token = !name.is_empty() && name.bytes().all(super::is_token_byte);
        let wrong_name = || TemplateError(format!("{name:?} cannot be the name of a {kind}"));
        let named = |usable: bool, make: fn(String) -> Expression| {
            if usable { Ok(make(name.to_string())) } else { Err(wrong_name()) }
        };
        match kind {
            "header" => named(token, Expression::Header),
            "cookie" => named(token, Expression::Cookie),
            "query" => named(!name.is_empty(), Expression::Query),
            "arg" => named(!name.is_empty(), Expression::Argument),
            "set" => named(token, Expression::Set),
            "path" => match name.parse::<usize>() {
                Ok(number) if (1..=64).contains(&number) && !name.starts_with('+') => {
                    Ok(Expression::Segment(number))
                }
                _ => Err(TemplateError(format!("{name:?} is no number of a segment, 1 to 64"))),
            },
            _ => Err(unknown()),
        }
    }

    /// What a request, and what is known besides, has there.
    ///
    /// # Errors
    /// When there is nothing, or more than one thing.
    pub fn value<'v>(
        &self,
        request: Option<&'v Request<'v>>,
        values: &Values<'v>,
    ) -> Result<Cow<'v, [u8]>, Gap> {
        let found = match self {
            Expression::Key => values.key.map(Cow::Borrowed),
            Expression::Backend => values.backend.map(|text| Cow::Borrowed(text.as_bytes())),
            Expression::RequestId => values.request_id.map(|text| Cow::Borrowed(text.as_bytes())),
            Expression::Set(name) => {
                let set = values.set.iter().find(|(other, _)| other == name);
                set.map(|(_, text)| Cow::Borrowed(text.as_bytes()))
            }
            _ => match request {
                Some(request) => self.of_request(request)?,
                None => None,
            },
        };
        found.ok_or(Gap::Missing)
    }

    fn of_request<'v>(&self, request: &'v Request<'v>) -> Result<Option<Cow<'v, [u8]>>, Gap> {
        let address = request.client.address;
        let written = |text: Option<String>| text.map(|text| Cow::Owned(text.into_bytes()));
        Ok(match self {
            Expression::Header(name) => {
                match request.head.fields.once(request.bytes, name) {
                    Once::Absent => None,
                    Once::One(value) => Some(Cow::Borrowed(value)),
                    // The first or the last? Who asks for one gets one, or none.
                    Once::Several => return Err(Gap::Malformed(Unfit::Several)),
                }
            }
            Expression::Query(name) => target::argument(request.query(), name),
            Expression::Argument(name) => {
                target::argument_raw(request.query(), name).map(Cow::Borrowed)
            }
            Expression::Cookie(name) => {
                target::cookie(request.values("cookie"), name).map(Cow::Borrowed)
            }
            Expression::Segment(number) => {
                target::segment(&request.path, *number).map(Cow::Borrowed)
            }
            Expression::Path => Some(Cow::Borrowed(&*request.path)),
            Expression::Method => Some(Cow::Borrowed(request.method())),
            Expression::Target => Some(Cow::Borrowed(request.head.target.of(request.bytes))),
            Expression::Host => {
                request.head.authority.map(|_| Cow::Owned(request.head.host(request.bytes)))
            }
            Expression::Authority => {
                request.head.authority.map(|span| Cow::Borrowed(span.of(request.bytes)))
            }
            Expression::Scheme => Some(Cow::Borrowed(request.scheme().as_bytes())),
            Expression::ClientIp => written(address.map(|a| a.ip().to_canonical().to_string())),
            Expression::ClientPort => written(address.map(|a| a.port().to_string())),
            Expression::Key | Expression::Backend | Expression::RequestId | Expression::Set(_) => {
                None
            }
        })
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Header(name) => write!(f, "header:{name}"),
            Expression::Query(name) => write!(f, "query:{name}"),
            Expression::Argument(name) => write!(f, "arg:{name}"),
            Expression::Cookie(name) => write!(f, "cookie:{name}"),
            Expression::Segment(number) => write!(f, "path:{number}"),
            Expression::Set(name) => write!(f, "set:{name}"),
            plain => {
                let named = PLAIN.iter().find(|(_, expression)| expression == plain);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

/// Longest template, bytes.
const TEMPLATE_LEN_MAX: usize = 1_024;

impl Template {
    /// Reads a text with expressions in braces; "{{" and "}}" stand for one brace.
    ///
    /// # Errors
    /// When a brace is alone, an expression is none, or the text is over 1 KiB.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        if text.len() > TEMPLATE_LEN_MAX {
            return Err(TemplateError(format!("over {TEMPLATE_LEN_MAX} bytes")));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let (before, behind) = rest.split_at(brace);
            literal.push_str(before);
            if let Some(behind) = behind.strip_prefix("{{") {
                literal.push('{');
                rest = behind;
            } else if let Some(behind) = behind.strip_prefix("}}") {
                literal.push('}');
                rest = behind;
            } else {
                let inner = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
                let Some((expression, behind)) = inner else {
                    return Err(TemplateError("a brace without its other half".to_string()));
                };
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Value(Expression::parse(expression)?));
                rest = behind;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Template { text: text.to_string(), parts })
    }

    /// Reads an expression without braces, as keys are written: "header:server"; or a template.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub fn parse_key(text: &str) -> Result<Template, TemplateError> {
        if text.contains('{') || text.contains('}') {
            return Template::parse(text);
        }
        let expression = Expression::parse(text)?;
        Ok(Template { text: text.to_string(), parts: vec![Part::Value(expression)] })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The expressions in their order.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Value(expression) => Some(expression),
        })
    }

    /// Whether it is this expression and nothing else.
    pub fn is_only(&self, expression: &Expression) -> bool {
        matches!(self.parts.as_slice(), [Part::Value(only)] if only == expression)
    }

    /// The text between the expressions, in its order.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Value(_) => None,
        })
    }

    /// Fills the template. Every part is checked for `purpose` by itself: what is harmless in the
    /// whole could be somebody else's name.
    ///
    /// # Errors
    /// The first part that is missing or may not be there.
    pub fn fill(
        &self,
        request: Option<&Request<'_>>,
        values: &Values<'_>,
        purpose: Purpose,
    ) -> Result<Text, Unfilled<'_>> {
        let mut text = Text::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                Part::Value(expression) => {
                    let at = |gap| Unfilled { part: Some(expression), gap };
                    let value = expression.value(request, values).map_err(at)?;
                    value::check(&value, purpose).map_err(|unfit| at(Gap::Malformed(unfit)))?;
                    text.extend_from_slice(&value);
                }
            }
        }
        if purpose == Purpose::PoolKey && text.len() > crate::key::KEY_LEN_MAX {
            return Err(Unfilled { part: None, gap: Gap::Malformed(Unfit::TooLong) });
        }
        Ok(text)
    }
}
