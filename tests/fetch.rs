//! HTTP requests of the control plane: one connection while it lives, another when it is gone, and
//! bounds on everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use corelane::config::StoreTls;
use corelane::fetch::{Ask, FetchError, Fetcher, Site};
use hyper::Method;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

const SHORT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n9\r\n123456789\r\n0\r\n\r\n";

/// Answers every request on a stream, and closes it after `requests` of them.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], requests: usize) {
    let mut bytes = [0; 4_096];
    for _ in 0..requests {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut bytes).await {
                Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
                _ => return,
            }
        }
        stream.write_all(answer).await.unwrap();
    }
}

/// A listener that answers so, and how many connections it took.
async fn listen(answer: &'static [u8], requests: usize) -> (Fetcher, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, answer, requests));
        }
    });
    (Fetcher::new(Site::parse(&url, &StoreTls::default()).unwrap()), taken)
}

fn ask(method: Method) -> Ask {
    Ask {
        method,
        path: "/".to_owned(),
        headers: Vec::new(),
        body: Default::default(),
        connect_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        body_max: 17,
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_replaced_when_it_was_closed() {
    let (mut fetcher, taken) = listen(SHORT, 3).await;
    for (request, connections) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3)] {
        let answer = fetcher.fetch(&ask(Method::GET)).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"hi"[..]));
        assert_eq!(taken.load(Ordering::Relaxed), connections, "request {request}");
    }
    // What must not be repeated is never sent where it might get lost.
    fetcher.fetch(&ask(Method::POST)).await.unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_body_is_read_to_its_bound() {
    let (mut fetcher, _) = listen(CHUNKED, 1).await;
    let error = fetcher.fetch(&ask(Method::GET)).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge(17)), "{error}");
    let large = Ask { body_max: 18, ..ask(Method::GET) };
    assert_eq!(&fetcher.fetch(&large).await.unwrap().body[..], b"123456789123456789");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let (mut fetcher, taken) = listen(b"HTTP/1.1 200 OK\r\nContent-Le", 1_000).await;
    for connections in [1, 2] {
        let began = Instant::now();
        let impatient = Ask { timeout: Duration::from_millis(200), ..ask(Method::GET) };
        let error = fetcher.fetch(&impatient).await.unwrap_err();
        assert!(matches!(error, FetchError::Timeout("the answer", _)), "{error}");
        assert!(began.elapsed() >= Duration::from_millis(200));
        // Taken by another task, perhaps later.
        while taken.load(Ordering::Relaxed) < connections {
            assert!(began.elapsed() < Duration::from_secs(20), "never on the same connection");
            tokio::task::yield_now().await;
        }
        assert_eq!(taken.load(Ordering::Relaxed), connections);
    }
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let path = format!("{}/fetch-{}.sock", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, SHORT, 2));
        }
    });
    let site = Site::parse(&format!("unix:{path}"), &StoreTls::default()).unwrap();
    let mut fetcher = Fetcher::new(site);
    assert_eq!(&fetcher.fetch(&ask(Method::GET)).await.unwrap().body[..], b"hi");
    std::fs::remove_file(&path).unwrap();
    let mut gone = Fetcher::new(fetcher.site().clone());
    let error = gone.fetch(&ask(Method::GET)).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
}
