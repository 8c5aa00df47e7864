//! What is measured. The benches differ in how: by the clock (`time.rs`) or by counting
//! instructions (`instructions.rs`).

mod pick;
mod preface;
mod table;

/// How often an operation can be repeated, and whether dropping its result belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Nanoseconds to microseconds; its result is dropped as part of it.
    Short,
    /// Milliseconds; its result is dropped outside the measurement.
    Long,
}

/// What an operation is called, and how it is measured.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// What it belongs to.
    pub group: &'a str,
    /// Unique within its group.
    pub name: &'a str,
    /// How it is repeated.
    pub length: Length,
    /// Bytes that it looks at, where a rate says something.
    #[allow(dead_code, reason = "only the clock makes a rate of it")]
    pub bytes: Option<usize>,
}

impl<'a> Operation<'a> {
    fn short(group: &'a str, name: &'a str) -> Operation<'a> {
        Operation { group, name, length: Length::Short, bytes: None }
    }

    fn long(group: &'a str, name: &'a str) -> Operation<'a> {
        Operation { group, name, length: Length::Long, bytes: None }
    }
}

/// A way of measuring.
pub trait Measure {
    /// Measures what `prepare` makes. Preparing is not part of it, and is left out where the
    /// operation is not wanted: some of it takes longer than all that is measured.
    fn measure<T, F: FnMut() -> T>(
        &mut self,
        operation: &Operation<'_>,
        prepare: impl FnOnce() -> F,
    );
}

/// Every operation there is, always in the same order.
pub fn all(by: &mut impl Measure) {
    preface::frames(by);
    preface::keys(by);
    pick::hash(by);
    pick::picks(by);
    table::build(by);
    table::follow(by);
    table::swap(by);
}
