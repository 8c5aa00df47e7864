//! Texts of requests with numbers in them: paths, arguments, headers, keys.

use std::str::FromStr;

/// A text in which every `{}` or `{:0WIDTH}` is the same number; `{{` and `}}` are braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Padded with zeros to this width.
    Number(usize),
}

/// Longest text of a template, bytes.
const TEXT_LEN_MAX: usize = 64 << 10;
/// Widest padding.
const WIDTH_MAX: usize = 32;

impl Template {
    /// The text with this number.
    pub fn fill(&self, number: u64) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for part in &self.0 {
            // Writing to a string does not fail.
            let _ = match part {
                Part::Text(literal) => text.write_str(literal),
                Part::Number(width) => write!(text, "{number:0width$}"),
            };
        }
        text
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        if text.len() > TEXT_LEN_MAX {
            return Err(format!("at most {TEXT_LEN_MAX} bytes"));
        }
        let usage = "{} and {:08} stand for the number, {{ and }} for braces";
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(place) = rest.find(['{', '}']) {
            literal.push_str(&rest[..place]);
            rest = &rest[place..];
            let doubled = ["{{", "}}"].iter().find_map(|pair| rest.strip_prefix(pair));
            if let Some(behind) = doubled {
                literal.push_str(&rest[..1]);
                rest = behind;
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (format, behind) = inner.ok_or(usage)?;
            let width = match format.strip_prefix(":0") {
                None if format.is_empty() => 0,
                None => return Err(usage.into()),
                Some(width) => width.parse().map_err(|error| format!("{width:?}: {error}"))?,
            };
            if width > WIDTH_MAX {
                return Err(format!("a number is at most {WIDTH_MAX} wide"));
            }
            parts.push(Part::Text(std::mem::take(&mut literal)));
            parts.push(Part::Number(width));
            rest = behind;
        }
        literal.push_str(rest);
        parts.push(Part::Text(literal));
        Ok(Template(parts))
    }
}

/// `Name: text`, the text being a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTemplate {
    /// Its name, as it is written.
    pub name: hyper::header::HeaderName,
    /// Its value.
    pub value: Template,
}

impl FromStr for HeaderTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<HeaderTemplate, String> {
        let (name, value) = text.split_once(':').ok_or("write Name: value")?;
        let name = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
        let value = value.trim();
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(format!("{value:?} cannot be the value of a header"));
        }
        Ok(HeaderTemplate { name, value: value.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_wherever_they_are_written() {
        let filled = |text: &str| text.parse::<Template>().unwrap().fill(42);
        assert_eq!(filled("plain"), "plain");
        assert_eq!(filled("/a{}/b{:05}?c={}"), "/a42/b00042?c=42");
        assert_eq!(filled("{{\"id\":{}}}"), "{\"id\":42}");
        for wrong in ["{", "}", "{:5}", "{x}", "{:099}", "a}b"] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_have_names() {
        let header: HeaderTemplate = "X-Device:  d{:03} ".parse().unwrap();
        assert_eq!((header.name.as_str(), header.value.fill(7)), ("x-device", "d007".into()));
        for wrong in ["none", "a b: c", ": c", "a: b\nc"] {
            assert!(wrong.parse::<HeaderTemplate>().is_err(), "{wrong:?}");
        }
    }
}
