//! Servers that answer wrongly, each in one way: each way has its counter and fails the run.

mod rig;

use std::sync::Mutex;

use rig::{Frame, counter, direct, server, wrong};

/// Runs four devices against a server with this answer; expects exit code 1 and only this counter.
fn only<F>(name: &str, answer: F) -> u64
where
    F: Fn(&Frame, usize) -> Vec<u8> + Send + Sync + 'static,
{
    let address = server(answer);
    let load = "--count 4 --rate 200/s --duration 500ms --drain 500ms --payload 64";
    let (code, arm) = direct(&[address], load);
    assert_eq!((code, wrong(&arm)), (Some(1), vec![name.to_string()]));
    assert!(arm["examples"][0].as_str().unwrap().starts_with(name), "{}", arm["examples"]);
    counter(&arm, name)
}

#[test]
fn a_good_server_in_this_process_passes() {
    let address = server(|frame, _| frame.bytes.clone());
    let (code, arm) = direct(&[address], "--count 4 --rate 200/s --duration 500ms");
    assert_eq!((code, wrong(&arm)), (Some(0), vec![]));
}

#[test]
fn lost() {
    let drop_third = |frame: &Frame, n| if n == 3 { Vec::new() } else { frame.bytes.clone() };
    assert_eq!(only("lost", drop_third), 4, "one a device");
}

#[test]
fn duplicated() {
    let twice = |frame: &Frame, n| frame.bytes.repeat(if n == 2 { 2 } else { 1 });
    assert_eq!(only("duplicated", twice), 4);
}

#[test]
fn out_of_order() {
    // Each device's frame 1 is held back until its frame 2 was answered.
    let held = Mutex::new(std::collections::HashMap::new());
    let swap = move |frame: &Frame, n: usize| {
        let device = frame.bytes[15..30].to_vec();
        match n {
            1 => {
                held.lock().unwrap().insert(device, frame.bytes.clone());
                Vec::new()
            }
            2 => [frame.bytes.clone(), held.lock().unwrap().remove(&device).unwrap()].concat(),
            _ => frame.bytes.clone(),
        }
    };
    assert_eq!(only("out_of_order", swap), 4);
}

#[test]
fn corrupted_payload() {
    let flip = |frame: &Frame, n| {
        let mut bytes = frame.bytes.clone();
        if n == 5 {
            *bytes.last_mut().unwrap() ^= 1;
        }
        bytes
    };
    assert_eq!(only("corrupted", flip), 4);
}

#[test]
fn corrupted_header() {
    let flip = |frame: &Frame, n| {
        let mut bytes = frame.bytes.clone();
        bytes[3] ^= u8::from(n == 5);
        bytes
    };
    assert_eq!(only("corrupted", flip), 4);
}

#[test]
fn a_frame_never_sent_and_a_frame_of_unknown_type() {
    let invent = |frame: &Frame, n| {
        let mut extra = frame.bytes.clone();
        match n {
            0 => extra[6] = 0xff,
            1 => extra[0] = 99,
            _ => extra.clear(),
        }
        [frame.bytes.clone(), extra].concat()
    };
    assert_eq!(only("corrupted", invent), 8);
}

#[test]
fn frames_of_another_device() {
    let mix_up = |frame: &Frame, n| {
        let mut foreign = frame.bytes.clone();
        foreign[29] ^= 1;
        if n == 1 { [frame.bytes.clone(), foreign].concat() } else { frame.bytes.clone() }
    };
    assert_eq!(only("foreign", mix_up), 4);
}

#[test]
fn a_server_of_another_name_is_misrouting() {
    // It says it is somebody else, as a gateway's wrong choice would look.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut streams: Vec<_> = listener.incoming().map_while(Result::ok).take(3).collect();
        for stream in &mut streams {
            let login = rig::read_frame(stream).unwrap();
            std::io::Write::write_all(stream, &rig::login_ack(&login, "10.0.0.1:1")).unwrap();
        }
        streams.iter_mut().for_each(|stream| assert!(rig::read_frame(stream).is_none()));
    });
    let (code, arm) = direct(&[address], "--count 3 --duration 100ms");
    assert_eq!((code, wrong(&arm)), (Some(1), vec!["misrouted".to_string()]));
    assert_eq!(counter(&arm, "misrouted"), 3);
}
