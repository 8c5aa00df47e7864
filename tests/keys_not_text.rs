//! Keys that are not UTF-8 are shown without loss, while the session lives and when it ended.

mod gateway;

use gateway::backend::Backend;
use gateway::client::{Client, frame};
use gateway::{Gateway, frame_config};
use serde_json::Value;

#[test]
fn a_key_that_is_not_text_is_shown_in_hexadecimal_and_two_are_told_apart() {
    let listening = Backend::manual();
    let toml = frame_config(&[listening.address], "", "").replace("json:devid", "bytes:0..4");
    let gateway = Gateway::start(&toml);
    // The first two look alike as text.
    for key in [*b"\xff\xfe-1", *b"\xfe\xff-1", *b"text"] {
        let mut client = Client::connect(gateway.address("devices"));
        client.send(&frame(1, &key));
        let mut backend = listening.accept();
        backend.receive(frame(1, &key).len());
        let (status, page) = gateway.get("/sessions");
        assert_eq!(status, 200, "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        let shown = &page["sessions"][0];
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = std::str::from_utf8(&key).is_err().then_some(hex);
        assert_eq!(shown["key"], String::from_utf8_lossy(&key).as_ref(), "{page}");
        assert_eq!(shown.get("key_hex").and_then(Value::as_str), expected.as_deref(), "{page}");
        let sessions = gateway.sessions.all().len();
        client.fin();
        backend.fin();
        let line = &gateway.session_lines(sessions + 1)[sessions];
        assert_eq!(line.get("key_hex"), shown.get("key_hex"), "{line}");
    }
}
