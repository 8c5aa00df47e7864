//! The hot path of a preface allocates nothing: parsing a frame, finding the key, and choosing a
//! backend for it.
//!
//! One test only: the counter belongs to the thread that runs it.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;
use std::hint::black_box;

use corelane::balance::{Algorithm, Balance, Candidates, Entry, PickState};
use corelane::end::End;
use corelane::frame::{FrameRules, Layout, Preface};
use corelane::key::{KeyExpression, NumberFormat};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a constant-
// initialised thread-local without a destructor, which itself never allocates.
#[allow(unsafe_code, reason = "the trait of global allocators is unsafe to implement")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, address: *mut u8, memory: Memory) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(address, memory) }
    }

    unsafe fn realloc(&self, address: *mut u8, memory: Memory, len: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(address, memory, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of<T>(work: impl FnOnce() -> T) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    black_box(work());
    ALLOCATIONS.with(Cell::get) - before
}

fn rules(key: &str, number_format: NumberFormat) -> FrameRules {
    let layout = Layout::compile(">ccHH", &["type", "version", "time", "length"]).unwrap();
    let key = KeyExpression::parse(key, &layout).unwrap();
    FrameRules { layout, key, number_format, body_len_max: 8_192, search_frames: 3, expect: vec![] }
}

fn frame(body: &str) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, 1, 0, 60][..], &len[..], body.as_bytes()].concat()
}

struct Ready;

impl Candidates for Ready {
    fn count(&self) -> usize {
        3
    }
    fn weight(&self, _: usize) -> u32 {
        2
    }
    fn usable(&self, index: usize) -> bool {
        index != 0
    }
    fn live(&self, _: usize) -> u32 {
        7
    }
}

#[test]
fn the_hot_path_allocates_nothing() {
    assert_eq!(allocations_of(|| vec![0_u8; 100]), 1, "the counter counts");

    let login = r#"{"v":1.5,"devid":"868120212345678","token":"abc","ok":true,"none":null}"#;
    let numeric = r#"{"devid":868120212345678,"version":"1.2.3"}"#;
    let nested = r#"{"other":[1,2],"device":{"id":"868120212345678"},"devid":"x"}"#;
    for (key, format, body, expected) in [
        ("json:devid", NumberFormat::Raw, login, "868120212345678"),
        ("json:devid", NumberFormat::Raw, numeric, "868120212345678"),
        ("json:devid", NumberFormat::Lua, numeric, "8.6812021234568e+14"),
        ("json:device.id", NumberFormat::Raw, nested, "868120212345678"),
        ("bytes:18..33", NumberFormat::Raw, login, "868120212345678"),
        ("field:time", NumberFormat::Raw, login, "60"),
    ] {
        let rules = rules(key, format);
        let stream = [frame(body), frame(body)].concat();
        let count = allocations_of(|| match rules.read(&stream) {
            Preface::Key(key) => assert_eq!(key.as_bytes(), expected.as_bytes()),
            other => panic!("{key}: {other:?}"),
        });
        assert_eq!(count, 0, "{key} in {body}");
    }

    // Brackets within brackets: the JSON reader keeps them in one growing list, of a byte each.
    let rules = rules("json:devid", NumberFormat::Raw);
    let deeper = frame(r#"{"a":[[[[[[1]]]]]],"devid":"868120212345678"}"#);
    assert_eq!(allocations_of(|| assert!(matches!(rules.read(&deeper), Preface::Key(_)))), 1);

    // Frames without a key before it, an incomplete one, and the refusals of garbage.
    let late = [frame(""), frame(r#"{"ping":1}"#), frame(login)].concat();
    assert_eq!(allocations_of(|| assert!(matches!(rules.read(&late), Preface::Key(_)))), 0);
    let part = &late[..late.len() - 1];
    assert_eq!(allocations_of(|| assert!(matches!(rules.read(part), Preface::NeedMore(_)))), 0);
    let too_long = [1, 1, 0, 60, 0xff, 0xff];
    let refused = Preface::Invalid(End::BodyTooLong);
    assert_eq!(allocations_of(|| assert_eq!(rules.read(&too_long), refused)), 0);
    let deep = frame(&"[".repeat(8_000));
    let refused = Preface::Invalid(End::JsonTooDeep);
    assert_eq!(allocations_of(|| assert_eq!(rules.read(&deep), refused)), 0);

    let ids = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
    let entries = ids.map(|id| Entry { id, weight: 2, ready: id != ids[0] });
    for (name, algorithm) in Algorithm::NAMES {
        let balance = Balance::prepare(*algorithm, &entries, true);
        let mut state = PickState::new(3, 1);
        let pick = || balance.pick(b"868120212345678", &mut state, &Ready).is_some();
        assert_eq!(allocations_of(pick), 0, "{name}");
    }
}
