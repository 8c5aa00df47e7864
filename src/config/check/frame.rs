//! `[listener.frame]`

use super::{Checker, count_u32};
use crate::config::document::Path;
use crate::config::fault::{Problem, nearest};
use crate::config::quantity::ByteCount;
use crate::config::shape::{Entries, Slot};
use crate::config::value::{Expected, MissingKeyName, OneOf};
use crate::config::{FrameListener, MissingKey, limits, raw};
use crate::frame::{Expect, FIELDS_MAX, FrameRules, Layout};
use crate::key::{KeyExpression, NumberFormat};

/// A checked table, and the pool its `missing_key` names.
pub(super) struct FrameSettings {
    pub listener: FrameListener,
    pub missing_key: Option<usize>,
}

/// A layout for checking the parts of a key expression that do not depend on one.
const LAYOUT_ANY: (&str, &[&str]) = (">H", &["length"]);

impl Checker<'_> {
    pub(super) fn frame(&mut self, raw: raw::Frame, path: &Path) -> Option<FrameSettings> {
        let layout = self.layout(raw.header, raw.fields, path);
        let key = self.key(raw.key, &path.key("key"), layout.as_ref());
        let missing_key = self.missing_key(raw.missing_key, &path.key("missing_key"));
        let max_body = self.within(raw.max_body, &path.key("max_body"), limits::MAX_BODY);
        let timeout = self.within(raw.timeout, &path.key("timeout"), limits::PREFACE_TIMEOUT);
        let number_format =
            self.or(raw.number_format, &path.key("number_format"), OneOf(NumberFormat::Raw));
        let search_frames =
            self.within(raw.search_frames, &path.key("search_frames"), limits::SEARCH_FRAMES);
        let expect = self.expect(raw.expect, &path.key("expect"), layout.as_ref());
        let (missing_key, ByteCount(max_body)) = (missing_key?, max_body?);
        let rules = FrameRules {
            layout: layout?,
            key: key?,
            number_format: number_format?.0,
            body_len_max: usize::try_from(max_body).ok()?,
            search_frames: count_u32(search_frames)?,
            expect: expect?,
        };
        Some(FrameSettings {
            listener: FrameListener { rules, missing_key, timeout: timeout? },
            missing_key: match missing_key {
                MissingKey::Reject => None,
                MissingKey::Pool(pool) => Some(pool),
            },
        })
    }

    fn layout(
        &mut self,
        header: Slot<String>,
        fields: Slot<Vec<Slot<String>>>,
        path: &Path,
    ) -> Option<Layout> {
        let (header_path, fields_path) = (path.key("header"), path.key("fields"));
        let header =
            self.required(header, &header_path, "byte order and letters, such as \">ccHH\"");
        let fields = self
            .required(fields, &fields_path, "a list with a name for each field of the header")
            .map(|list| self.entries(list, &fields_path))
            .and_then(|(fields, complete)| complete.then_some(fields));
        let header = header?;
        let names: Option<Vec<&str>> =
            fields.as_ref().map(|fields| fields.iter().map(|(_, name)| name.as_str()).collect());
        // Without readable names the header can still be wrong by itself.
        match Layout::compile(&header, names.as_deref().unwrap_or(LAYOUT_ANY.1)) {
            Ok(layout) => names.map(|_| layout),
            Err(error) => {
                if !is_sound(&header) {
                    self.wrong(&header_path, Problem::said(error.to_string()));
                } else if names.is_some() {
                    self.relation(&fields_path, Problem::said(error.to_string()));
                }
                None
            }
        }
    }

    fn key(
        &mut self,
        slot: Slot<String>,
        path: &Path,
        layout: Option<&Layout>,
    ) -> Option<KeyExpression> {
        let valid = "\"json:PATH\", \"bytes:A..B\" or \"field:NAME\"";
        let text = self.required(slot, path, valid)?;
        let parsed = match layout {
            Some(layout) => KeyExpression::parse(&text, layout),
            // Which fields there are is not known, but the rest can be checked all the same.
            None if text.starts_with("field:") => return None,
            None => KeyExpression::parse(&text, &Layout::compile(LAYOUT_ANY.0, LAYOUT_ANY.1).ok()?),
        };
        parsed
            .map_err(|error| {
                let near = match text.split_once(':') {
                    Some(("field", name)) => layout
                        .and_then(|layout| nearest(name, layout.field_names()))
                        .map(|name| format!("\"field:{name}\"")),
                    _ => None,
                };
                self.wrong(path, Problem::said(error.to_string()).near(near));
            })
            .ok()
    }

    /// What happens without a key; its pool is thereby in use.
    pub(super) fn missing_key(
        &mut self,
        slot: Slot<MissingKeyName>,
        path: &Path,
    ) -> Option<MissingKey> {
        match self.or(slot, path, MissingKeyName::Reject)? {
            MissingKeyName::Reject => Some(MissingKey::Reject),
            MissingKeyName::Pool(name) => self.pool_index(&name, path).map(MissingKey::Pool),
        }
    }

    fn expect(
        &mut self,
        slot: Slot<Entries<Expected>>,
        path: &Path,
        layout: Option<&Layout>,
    ) -> Option<Vec<Expect>> {
        let Entries(entries) = self.or(slot, path, Entries::default())?;
        let mut expect = Vec::new();
        for (name, slot) in entries {
            let path = path.key(&name);
            let range = self.take(slot, &path);
            let Some(layout) = layout else { continue };
            let Some(field) = layout.field_index(&name) else {
                let names: Vec<&str> = layout.field_names().collect();
                let mut problem = Problem::unknown_name("header field", &name, &names);
                problem.what = "the header has no such field".to_string();
                self.relation(&path, problem.without_found());
                continue;
            };
            let Some(Expected(range)) = range else { continue };
            let (least, most) = layout.fields()[field].bounds();
            if *range.start() < least || *range.end() > most {
                let what = "more than the field can hold";
                self.relation(&path, Problem::new(what, format!("{least} to {most}")));
            }
            expect.push(Expect { field, range });
        }
        Some(expect)
    }
}

/// Whether there are names that the header would compile with.
fn is_sound(header: &str) -> bool {
    let names: Vec<String> = (1..FIELDS_MAX).map(|number| format!("field {number}")).collect();
    let names: Vec<&str> =
        std::iter::once("length").chain(names.iter().map(String::as_str)).collect();
    (1..=FIELDS_MAX).any(|count| Layout::compile(header, &names[..count]).is_ok())
}
