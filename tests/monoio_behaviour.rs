//! What the data plane relies on in monoio and the kernel. When one of these fails after an update,
//! the design notes in `sys/socket.rs` and `relay/pump.rs` no longer hold.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRent, CancelableAsyncReadRent, Canceller};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

fn on_a_ring(test: impl AsyncFnOnce()) {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun().setup_submit_all();
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(256)
        .uring_builder(ring)
        .build()
        .unwrap();
    runtime.block_on(test());
}

#[test]
fn a_read_on_a_non_blocking_socket_waits_for_data() {
    let (mut client, server) = pair();
    server.set_nonblocking(true).unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(50));
        client.write_all(b"late").unwrap();
        client
    });
    on_a_ring(async || {
        let mut stream = monoio::net::TcpStream::from_std(server).unwrap();
        let (result, buf) = stream.read(Vec::with_capacity(16)).await;
        assert_eq!((result.unwrap(), &buf[..]), (4, &b"late"[..]));
    });
    writer.join().unwrap();
}

#[test]
fn a_cancelled_read_gives_its_buffer_back_and_loses_nothing() {
    let (mut client, server) = pair();
    on_a_ring(async || {
        let mut stream = monoio::net::TcpStream::from_std(server).unwrap();
        for round in 0..50u8 {
            let canceller = Canceller::new();
            let handle = canceller.handle();
            let mut read = Box::pin(stream.cancelable_read(Vec::with_capacity(16), handle));
            // The read is armed, then cancelled; in odd rounds data comes in between.
            std::future::poll_fn(|context| {
                assert!(read.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            if round % 2 == 1 {
                client.write_all(&[round]).unwrap();
            }
            canceller.cancel();
            let (result, buf) = read.await;
            let mut got = match result {
                Ok(n) => buf[..n].to_vec(),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                    Vec::new()
                }
            };
            if round % 2 == 1 && got.is_empty() {
                let (result, buf) = stream.read(Vec::with_capacity(16)).await;
                got = buf[..result.unwrap()].to_vec();
            }
            let expected: &[u8] = if round % 2 == 1 { &[round] } else { &[] };
            assert_eq!(got, expected, "round {round}");
        }
    });
}

#[test]
fn a_dropped_poll_loses_nothing() {
    let (mut client, server) = pair();
    on_a_ring(async || {
        let mut stream = monoio::net::TcpStream::from_std(server).unwrap();
        for _ in 0..50 {
            let mut poll = Box::pin(stream.readable(true));
            std::future::poll_fn(|context| {
                assert!(poll.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        client.write_all(b"all of it").unwrap();
        stream.readable(true).await.unwrap();
        let (result, buf) = stream.read(Vec::with_capacity(16)).await;
        assert_eq!(&buf[..result.unwrap()], b"all of it");
    });
}

#[test]
fn a_stream_dropped_with_a_read_in_flight_closes_its_descriptor() {
    let (mut client, server) = pair();
    let fd = server.as_raw_fd();
    on_a_ring(async || {
        let mut stream = monoio::net::TcpStream::from_std(server).unwrap();
        let mut read = Box::pin(stream.read(Vec::with_capacity(16)));
        std::future::poll_fn(|context| {
            assert!(read.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        drop(read);
        drop(stream);
        // The cancellation and the close complete in later turns of the ring.
        let (mut waker, waiter) = pair();
        let waiter = monoio::net::TcpStream::from_std(waiter).unwrap();
        let give_up = Instant::now() + Duration::from_secs(5);
        while std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
        {
            assert!(Instant::now() < give_up, "the descriptor leaked");
            waker.write_all(b"x").unwrap();
            waiter.readable(true).await.unwrap();
            std::thread::park_timeout(Duration::from_millis(1));
        }
    });
    let mut rest = Vec::new();
    assert_eq!(client.read_to_end(&mut rest).unwrap(), 0, "the peer sees the end");
}

#[test]
fn any_pollable_descriptor_can_be_awaited() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(50));
        writer.write_all(b"x").unwrap();
    });
    on_a_ring(async || {
        let fd = std::os::fd::OwnedFd::from(reader);
        let stream = monoio::net::TcpStream::from_std(TcpStream::from(fd)).unwrap();
        stream.readable(true).await.unwrap();
    });
    thread.join().unwrap();
}
