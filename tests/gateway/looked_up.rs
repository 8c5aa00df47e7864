//! Gateways whose frame listener has a lookup, and devices that say where they landed.

use std::io::Read;
use std::net::SocketAddr;

use serde_json::Value;

use super::Gateway;
use super::client::Client;

/// Two shards; the listener `devices` with the lookup `nodes`, of which `lookup` holds the keys.
pub fn config(lookup: &str) -> String {
    format!(
        r#"[runtime]
cores = [0, 1]
max_connections = 4000

[[listener]]
name = "devices"
bind = ["127.0.0.1:0"]
protocol = "frame"
lookup = "nodes"
backlog = 4096
[listener.frame]
header = ">ccHH"
fields = ["type", "version", "time", "length"]
key = "json:devid"
timeout = "20s"

[lookup.nodes]
{lookup}
"#
    )
}

/// Logs a device in: the greeting of its backend, if it has one.
pub fn place(address: SocketAddr, id: &str) -> Option<String> {
    greeting(&mut Client::login(address, id))
}

/// The line that a backend begins with; `None` if the connection ends instead.
pub fn greeting(client: &mut Client) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match client.stream.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) => line.push(byte[0]),
            Ok(_) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no greeting: {error}"),
        }
    }
    Some(String::from_utf8(line).unwrap())
}

impl Gateway {
    /// How many names were looked up with this result.
    pub fn looked(&self, result: &str) -> f64 {
        self.metric(&format!("corelane_lookups_total{{lookup=\"nodes\",result=\"{result}\"}}"))
    }

    /// How many questions had this answer.
    pub fn questions(&self, answer: &str) -> f64 {
        self.metric(&format!(
            "corelane_lookup_questions_total{{lookup=\"nodes\",answer=\"{answer}\"}}"
        ))
    }

    /// Why the session of a device ended, whose id is written as in JSON.
    pub fn end_of(&self, id: &str) -> String {
        let id: Value = serde_json::from_str(&format!("\"{id}\"")).unwrap();
        self.sessions.wait(&format!("line of {id}"), |lines| {
            let mut lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let line = lines.find(|line| line["key"] == id)?;
            Some(line["end"].as_str().unwrap().to_owned())
        })
    }
}
