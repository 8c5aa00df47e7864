//! A real Consul server, or several that form one.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use corelane::config::{ConsulSource, StoreTls};
use corelane::fetch::{Answer, Ask, Fetcher, Site};
use corelane::source::{Timings, consul::watch};
use hyper::Method;
use serde_json::{Value, json};

use super::desk::Watch;
use super::process::{Directory, Process, free_port};

/// The service that is watched.
pub const SERVICE: &str = "c2s";
/// Of every question.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// For which the agent holds a query.
pub const WAIT: Duration = Duration::from_secs(1);
/// The token that may do everything, of a server that asks for one.
pub const MASTER: &str = "6d9fbd1d-9a49-4b3a-8e8c-4a0d8a9e3f10";

pub struct Consul {
    pub process: Process,
    pub http: u16,
    pub directory: Directory,
    pub serf: u16,
    is_durable: bool,
    runtime: tokio::runtime::Runtime,
    fetcher: RefCell<Fetcher>,
    token: Option<&'static str>,
}

impl Consul {
    /// One server, which leads itself and keeps everything in memory: up in a tenth of a second.
    pub fn start() -> Consul {
        Consul::start_with(&json!({}))
    }

    /// One server, which leads itself and finds everything again after a restart.
    pub fn start_durable() -> Consul {
        Consul::start_with(&json!({ "bootstrap": true, "data_dir": "data" }))
    }

    /// A server that lets in nobody without a token.
    pub fn start_closed() -> Consul {
        let acl = json!({
            "enabled": true, "default_policy": "deny", "tokens": { "master": MASTER },
        });
        let mut consul = Consul::launch(&json!({ "acl": acl }));
        consul.token = Some(MASTER);
        consul.wait_leader();
        consul
    }

    pub fn start_with(more: &Value) -> Consul {
        let mut consul = Consul::launch(more);
        consul.wait_leader();
        consul
    }

    /// Starts without waiting for a leader. What has a `data_dir` uses the disk.
    pub fn launch(more: &Value) -> Consul {
        let directory = Directory::new("consul");
        let (http, serf, server) = (free_port(), free_port(), free_port());
        let mut settings = json!({
            "server": true,
            "node_name": format!("node-{http}"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": { "http": http, "serf_lan": serf, "server": server,
                       "dns": -1, "grpc": -1, "serf_wan": -1 },
            // Elections take tenths of a second instead of seconds.
            "performance": { "raft_multiplier": 1 },
            "disable_update_check": true,
            "leave_on_terminate": false,
        });
        for (name, value) in more.as_object().unwrap() {
            match (settings.get_mut(name).and_then(Value::as_object_mut), value.as_object()) {
                (Some(into), Some(more)) => into.extend(more.clone()),
                _ => settings[name] = value.clone(),
            }
        }
        std::fs::write(directory.path().join("consul.json"), settings.to_string()).unwrap();
        let is_durable = settings.get("data_dir").is_some();
        let process = spawn(&directory, is_durable);
        let url = format!("http://127.0.0.1:{http}");
        let site = Site::parse(&url, &StoreTls::default()).unwrap();
        Consul {
            process,
            http,
            serf,
            directory,
            is_durable,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            fetcher: RefCell::new(Fetcher::new(site)),
            token: None,
        }
    }

    /// Waits until writes are accepted.
    pub fn wait_leader(&mut self) {
        let Consul { process, runtime, fetcher, token, .. } = self;
        let ask = ask(Method::PUT, "/v1/kv/ready", "yes", *token);
        process.wait(|| {
            let answer = runtime.block_on(fetcher.borrow_mut().fetch(&ask));
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Starts again on the same ports, with what the directory holds.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.directory, self.is_durable);
        self.wait_leader();
    }

    /// Starts again with nothing: the index begins anew.
    pub fn restart_empty(&mut self) {
        self.process.kill();
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
        self.process = spawn(&self.directory, self.is_durable);
        self.wait_leader();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// One instance of [`SERVICE`] at 10.0.0.NUMBER:1000.
    pub fn register(&self, number: u8, weight: u32) {
        self.register_as(&json!({
            "Name": SERVICE, "ID": format!("c2s-{number}"), "Address": format!("10.0.0.{number}"),
            "Port": 1000, "Weights": { "Passing": weight, "Warning": 1 },
        }));
    }

    pub fn register_as(&self, service: &Value) {
        self.put("/v1/agent/service/register", &service.to_string());
    }

    /// Instances on a node without an agent: number, address and weight, 60 at most.
    pub fn register_many(&self, instances: &[(usize, String, u32)]) {
        let node = json!({ "Node": "outside", "Address": "10.9.9.9" });
        let mut operations = vec![json!({ "Node": { "Verb": "set", "Node": node } })];
        operations.extend(instances.iter().map(|(number, address, weight)| {
            let service = json!({
                "Service": SERVICE, "ID": format!("many-{number}"), "Address": address,
                "Port": 1000, "Weights": { "Passing": weight, "Warning": 1 },
            });
            json!({ "Service": { "Verb": "set", "Node": "outside", "Service": service } })
        }));
        self.put("/v1/txn", &json!(operations).to_string());
    }

    pub fn deregister(&self, number: u8) {
        self.put(&format!("/v1/agent/service/deregister/c2s-{number}"), "");
    }

    pub fn put(&self, path: &str, body: &str) -> Answer {
        let ask = ask(Method::PUT, path, body, self.token);
        let answer = self.runtime.block_on(self.fetcher.borrow_mut().fetch(&ask)).unwrap();
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        answer
    }

    /// Repeats a change until there is a leader that takes it.
    pub fn put_until_led(&mut self, path: &str) {
        self.wait_leader();
        self.put(path, "");
    }

    pub fn settings(&self) -> ConsulSource {
        settings(self.http)
    }

    pub fn watch(&self) -> Watch {
        start(self.settings())
    }
}

/// Of an agent on this port.
pub fn settings(port: u16) -> ConsulSource {
    ConsulSource {
        url: format!("http://127.0.0.1:{port}"),
        service: SERVICE.to_owned(),
        tag: None,
        datacentre: None,
        token_file: None,
        wait: WAIT,
        max_lag: Duration::from_secs(5),
        tls: StoreTls::default(),
    }
}

/// Runs a watcher.
pub fn start(settings: ConsulSource) -> Watch {
    let timings = Timings { timeout: TIMEOUT, resync: Duration::from_secs(60) };
    Watch::start(move |desk| watch(settings, timings, desk))
}

fn ask(method: Method, path: &str, body: &str, token: Option<&str>) -> Ask {
    let token = token.map(|token| ("x-consul-token".parse().unwrap(), token.parse().unwrap()));
    Ask {
        method,
        path: path.to_owned(),
        headers: token.into_iter().collect(),
        body: body.to_owned().into(),
        connect_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
        body_max: 1 << 20,
    }
}

fn spawn(directory: &Directory, is_durable: bool) -> Process {
    let mut arguments = vec!["agent", "-config-file", "consul.json"];
    if !is_durable {
        arguments.push("-dev");
    }
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    Process::start(directory, "consul", &arguments)
}

/// Makes an authority, and certificates of an agent and of a client, as PEM files.
pub fn certificates(directory: &Path) {
    openssl(
        directory,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
    );
    for name in ["agent", "client"] {
        openssl(
            directory,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        let extensions = "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(directory.join("extensions"), extensions).unwrap();
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key \
            -CAcreateserial -out {name}.pem -days 2 -extfile extensions"
            ),
        );
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = std::process::Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(directory)
        .output()
        .expect("openssl; see scripts/install-test-tools");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
