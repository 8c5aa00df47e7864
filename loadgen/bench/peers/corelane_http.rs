//! corelane for HTTP: rules that are a table, a lookup through DNS, and WebSocket.

use std::fmt::Write as _;

use super::{DOMAIN, Setup};
use crate::run::plan::{TABLE_PLACES, Tweak};

/// Its listener, and what that needs.
pub fn listener(setup: &Setup) -> String {
    let listen = setup.listen;
    let head = format!(
        r#"[[listener]]
name = "web"
bind = ["{listen}"]
protocol = "http"
"#
    );
    head + &match setup.tweak {
        Tweak::Table => by_table(setup),
        Tweak::Lookup => by_lookup(setup),
        _ => upgrades(setup),
    }
}

fn by_table(setup: &Setup) -> String {
    // As many as there are clients: nobody closes what somebody will want.
    let mut text = String::from("\n[listener.http.backend]\nidle = 64\n");
    for place in 0..TABLE_PLACES {
        let _ = write!(
            text,
            "\n[[listener.http.rule]]\nheader = {{ x-place = \"{place:03}\" }}\n\
             pool = \"place-{place:03}\"\n"
        );
    }
    for place in 0..TABLE_PLACES {
        let backend = setup.backend_of(place);
        let _ = write!(
            text,
            "\n[pool.place-{place:03}]\nbalance = \"round_robin\"\nbackends = [\"{backend}\"]\n"
        );
    }
    text
}

/// The published configuration's job.
fn by_lookup(setup: &Setup) -> String {
    let (port, name_server) = (setup.backend_port(), setup.name_server);
    format!(
        r#"
[listener.http.backend]
send_timeout = "500ms"
read_timeout = "500ms"
idle = 64

[[listener.http.rule]]
name = "mail"
method = ["POST"]
path = "/mail"
lookup = "zones"
set = {{ service = "mail" }}
missing = 403
malformed = 403

[[listener.http.rule]]
name = "default"
method = ["POST"]
lookup = "zones"
set = {{ service = "default" }}
missing = 403
malformed = 403

[[listener.http.rule]]
name = "others"
reply = {{ status = 405, headers = {{ Allow = "POST" }} }}

[lookup.zones]
kind = "dns"
name = "zone{{header:server}}-{{set:service}}"
search = "{DOMAIN}"
resolvers = ["{name_server}"]
port = {port}
ttl = "60s"
connect_timeout = "1s"
retries = 1
"#
    )
}

fn upgrades(setup: &Setup) -> String {
    let backends: Vec<String> = setup.backends.iter().map(|b| format!("  \"{b}\",\n")).collect();
    format!(
        r#"
[[listener.http.rule]]
path = "/ws"
pool = "games"

[pool.games]
balance = "round_robin"
connect_timeout = "1s"
idle_timeout = "10m"
backends = [
{backends}]
"#,
        backends = backends.concat(),
    )
}
