//! A real Redis.

use std::time::Duration;

use corelane::config::{RedisSource, Secret, StoreTls};
use corelane::source::{Timings, redis::watch};
use redis::{Connection, Value};

use super::desk::Watch;
use super::process::{Directory, Process, free_port};

/// The hash that is watched.
pub const KEY: &str = "corelane:c2s";

pub struct Redis {
    pub process: Process,
    pub port: u16,
    pub directory: Directory,
    options: Vec<String>,
    password: Option<String>,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// With options of redis-server, such as `["--requirepass", "secret"]`.
    pub fn start_with(options: &[&str]) -> Redis {
        let directory = Directory::new("redis");
        let port = free_port();
        let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
        let password =
            options.iter().position(|o| o == "--requirepass").map(|at| options[at + 1].clone());
        let process = Process::start(&directory, "redis-server", &arguments(port, &options));
        let mut redis = Redis { process, port, directory, options, password };
        redis.wait();
        redis
    }

    fn wait(&mut self) {
        let url = self.url();
        self.process.wait(|| {
            let client = redis::Client::open(url.as_str()).unwrap();
            match client.get_connection_with_timeout(Duration::from_millis(200)) {
                Ok(mut connection) => redis::cmd("PING").query::<Value>(&mut connection).is_ok(),
                // It answers, if not to everybody.
                Err(error) => !error.is_io_error(),
            }
        });
    }

    /// Starts again on the same port, with what the directory holds.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process =
            Process::start(&self.directory, "redis-server", &arguments(self.port, &self.options));
        self.wait();
    }

    fn url(&self) -> String {
        let password = self.password.as_ref().map_or(String::new(), |word| format!(":{word}@"));
        format!("redis://{password}127.0.0.1:{}", self.port)
    }

    pub fn connection(&self) -> Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection_with_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Runs one command, its parts separated by blanks.
    pub fn run(&self, command: &str) -> Value {
        self.try_run(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub fn try_run(&self, command: &str) -> redis::RedisResult<Value> {
        let mut parts = command.split(' ');
        let mut query = redis::cmd(parts.next().unwrap());
        parts.for_each(|part| {
            query.arg(part);
        });
        query.query(&mut self.connection())
    }

    /// Sets fields of the hash to values without blanks.
    pub fn put(&self, entries: &str) {
        self.run(&format!("HSET {KEY} {entries}"));
    }

    pub fn settings(&self) -> RedisSource {
        settings(&format!("redis://127.0.0.1:{}/0", self.port))
    }

    pub fn watch(&self) -> Watch {
        start(self.settings(), TIMINGS)
    }
}

/// Short, and no resync while a test lasts.
pub const TIMINGS: Timings =
    Timings { resync: Duration::from_secs(600), timeout: Duration::from_secs(1) };

pub fn settings(url: &str) -> RedisSource {
    RedisSource {
        url: url.to_owned(),
        key: KEY.to_owned(),
        username: None,
        password: None,
        tls: StoreTls::default(),
    }
}

pub fn with_password(settings: RedisSource, password: &str) -> RedisSource {
    RedisSource { password: Some(Secret::new(password.to_owned())), ..settings }
}

pub fn start(settings: RedisSource, timings: Timings) -> Watch {
    Watch::start(move |desk| watch(settings, timings, desk))
}

fn arguments(port: u16, options: &[String]) -> Vec<String> {
    let fixed = format!("--port {port} --bind 127.0.0.1 --appendonly no --daemonize no");
    let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    arguments.extend(["--save".to_owned(), String::new()]);
    arguments.extend(options.iter().cloned());
    arguments
}
