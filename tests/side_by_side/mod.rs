//! A gateway beside nginx with Lua: the same bytes to both, and what came of them on either side of
//! each.
#![allow(dead_code, reason = "each test uses a part of this")]

pub mod exchange;
pub mod nginx;
pub mod recorder;

use std::fmt;
use std::net::SocketAddr;

use exchange::Heard;
use recorder::{Arrival, Recorder};

/// What a caller is answered, and where its request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The backend that got the request, by its number; `None` for none.
    pub at: Option<u8>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(number) => write!(f, "{} by backend {number}", self.status),
            None => write!(f, "{} by itself", self.status),
        }
    }
}

/// Answered without a backend.
pub const fn own(status: u16) -> Answer {
    Answer { status, at: None }
}

/// Answered by a backend.
pub const fn at(number: u8) -> Answer {
    Answer { status: 200, at: Some(number) }
}

/// The status of an answer that has no head, or of none at all, before the connection is closed.
pub const NO_HEAD: u16 = 0;

/// A request, and what either side makes of it.
pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    /// What nginx with Lua does.
    pub theirs: Answer,
    /// What we do, if that is something else, and why.
    pub ours: Option<(Answer, &'static str)>,
    /// Fields of the request that only nginx passes on (`false`) or only we do (`true`), and why.
    pub fields: Vec<(&'static str, bool, &'static str)>,
    /// Whether to wait for what else may come of it.
    pub hostile: bool,
}

impl Case {
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, theirs: Answer) -> Case {
        Case {
            name: name.into(),
            bytes: bytes.into(),
            theirs,
            ours: None,
            fields: Vec::new(),
            hostile: false,
        }
    }

    /// We do something else, for this reason.
    pub fn but(mut self, ours: Answer, reason: &'static str) -> Case {
        self.ours = Some((ours, reason));
        self
    }

    /// Of this field only we (`true`) or they (`false`) pass something on, for this reason.
    pub fn field(mut self, name: &'static str, only_ours: bool, reason: &'static str) -> Case {
        self.fields.push((name, only_ours, reason));
        self
    }

    pub fn hostile(mut self) -> Case {
        self.hostile = true;
        self
    }
}

/// What came of a request.
pub struct Outcome {
    pub heard: Heard,
    pub arrivals: Vec<Arrival>,
}

impl Outcome {
    /// `None` where there were several answers, or the request arrived several times.
    pub fn answer(&self) -> Option<Answer> {
        let status = match &self.heard.responses[..] {
            [] if self.heard.closed => NO_HEAD,
            [response] => response.status,
            _ => return None,
        };
        match &self.arrivals[..] {
            [] => Some(own(status)),
            [arrival] => Some(Answer { status, at: Some(arrival.backend) }),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statuses: Vec<u16> = self.heard.responses.iter().map(|one| one.status).collect();
        write!(f, "said {statuses:?}{}", if self.heard.closed { " and closed" } else { "" })?;
        for arrival in &self.arrivals {
            write!(f, "; backend {} got {:.200}", arrival.backend, arrival.line())?;
        }
        Ok(())
    }
}

/// Sends bytes to one of the two, and collects what came of them.
pub fn send(to: SocketAddr, recorder: &Recorder, bytes: &[u8], hostile: bool) -> Outcome {
    recorder.take();
    let heard = exchange::exchange(to, bytes, hostile);
    Outcome { heard, arrivals: recorder.take() }
}

/// How fields that every request has differ.
pub struct FieldDifference {
    /// In lower case.
    pub name: &'static str,
    /// `None` for none, "*" for anything.
    pub theirs: Option<&'static str>,
    pub ours: Option<&'static str>,
    pub reason: &'static str,
}

/// What is wrong with an outcome of nginx with Lua, against what is recorded for it.
fn faults_of_theirs(case: &Case, outcome: &Outcome) -> Vec<String> {
    match outcome.answer() == Some(case.theirs) {
        true => Vec::new(),
        false => vec![format!("{}: nginx, not {}: {outcome}", case.name, case.theirs)],
    }
}

/// What differs between the two without being listed.
pub fn faults(
    case: &Case,
    theirs: &Outcome,
    ours: &Outcome,
    everywhere: &[FieldDifference],
) -> Vec<String> {
    let mut faults = faults_of_theirs(case, theirs);
    let expected = case.ours.map_or(case.theirs, |(answer, _)| answer);
    if ours.answer() != Some(expected) {
        faults.push(format!("{}: ours, not {expected}: {ours}", case.name));
    }
    if case.ours.is_some_and(|(answer, _)| answer == case.theirs) {
        faults.push(format!("{}: listed as different, and is not", case.name));
    }
    if let ([theirs], [ours]) = (&theirs.arrivals[..], &ours.arrivals[..]) {
        if (&theirs.method, &theirs.target) != (&ours.method, &ours.target) {
            faults.push(format!("{}: {} / {}", case.name, theirs.line(), ours.line()));
        }
        if theirs.body != ours.body {
            let (theirs, ours) = (theirs.body.escape_ascii(), ours.body.escape_ascii());
            faults.push(format!("{}: body {theirs:.200} / {ours:.200}", case.name));
        }
        faults.extend(field_faults(case, theirs, ours, everywhere));
    }
    let same = case.ours.is_none();
    if let (true, [theirs], [ours]) = (same, &theirs.heard.responses[..], &ours.heard.responses[..])
    {
        // Pages of one's own are one's own.
        let number = ours.value("x-backend");
        if number != theirs.value("x-backend") {
            faults.push(format!("{}: only one response is the backend's", case.name));
        } else if number.is_some() && theirs.body != ours.body {
            faults.push(format!("{}: other body of the response", case.name));
        }
    }
    faults
}

fn field_faults(
    case: &Case,
    theirs: &Arrival,
    ours: &Arrival,
    everywhere: &[FieldDifference],
) -> Vec<String> {
    let (mut left, mut right) = (theirs.sorted_fields(), ours.sorted_fields());
    let mut faults = Vec::new();
    for difference in everywhere {
        let mut check = |who: &str, fields: &mut Vec<(String, String)>, value: Option<&str>| {
            let all: Vec<String> = fields
                .extract_if(.., |(name, _)| name == difference.name)
                .map(|(_, value)| value)
                .collect();
            let expected: Vec<&str> = value.into_iter().collect();
            if value != Some("*") && all != expected {
                let name = difference.name;
                faults.push(format!("{}: {who} {name}: {all:?}, not {expected:?}", case.name));
            }
        };
        check("nginx", &mut left, difference.theirs);
        check("ours", &mut right, difference.ours);
    }
    for (name, only_ours, _) in &case.fields {
        let (with, without) = if *only_ours { (&mut right, &left) } else { (&mut left, &right) };
        let before = with.len();
        with.retain(|(field, _)| field != name);
        if with.len() == before || without.iter().any(|(field, _)| field == name) {
            faults.push(format!("{}: {name} is listed as different, and is not", case.name));
        }
    }
    if left != right {
        faults.push(format!("{}: fields\n  nginx {left:?}\n  ours  {right:?}", case.name));
    }
    faults
}

/// Fails with every fault.
pub fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
