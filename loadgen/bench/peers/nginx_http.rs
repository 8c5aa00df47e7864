//! nginx for HTTP: one worker, the backend chosen by a `map` of a header, or by Lua that asks DNS
//! as in a configuration that was published, with connections to backends kept; and that
//! configuration as it was published.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::Setup;
use crate::run::plan::{TABLE_PLACES, Tweak};

/// The logic of lookups: what tests compare corelane with.
const CALLBACKS_LUA: &str = include_str!("../../../tests/seeds/callbacks.lua");
/// The configuration as it was published.
const CALLBACKS_CONF: &str = include_str!("../../../tests/seeds/callbacks.conf");

/// Modules, found by the folder they are in.
#[derive(Debug, Clone)]
pub struct Lua {
    /// Where they are.
    pub modules: PathBuf,
}

/// Where packages put Lua's resolver.
const RESOLVERS: [&str; 2] = [
    "/usr/share/lua/5.1/nginx/dns/resolver.lua",
    "/usr/local/share/lua/5.1/nginx/dns/resolver.lua",
];

impl Lua {
    /// `None` if a module or the resolver is missing.
    pub fn look(folders: &[&str]) -> Option<Lua> {
        let has_all = |folder: &PathBuf| {
            let names = ["ndk_http_module.so", "ngx_http_lua_module.so"];
            names.iter().all(|name| folder.join(name).is_file())
        };
        let modules = folders.iter().map(PathBuf::from).find(has_all)?;
        let has_resolver = RESOLVERS.iter().any(|file| PathBuf::from(file).is_file());
        has_resolver.then_some(Lua { modules })
    }
}

/// The files that Lua reads, beside the configuration.
pub fn files(setup: &Setup) -> Vec<(PathBuf, String)> {
    let name_server = format!("nameserver {}\nsearch {}\n", setup.name_server, super::DOMAIN);
    vec![
        (setup.folder.join("callbacks.lua"), CALLBACKS_LUA.to_string()),
        (setup.folder.join("resolv.conf"), name_server),
    ]
}

/// The configuration.
pub fn config(setup: &Setup, lua: Option<&Lua>) -> String {
    match (setup.tweak, lua) {
        (Tweak::Published, Some(lua)) => published(setup, lua),
        (Tweak::Lookup, Some(lua)) => {
            let modules = lua.modules.display();
            let load = format!(
                "load_module {modules}/ndk_http_module.so;\n\
                 load_module {modules}/ngx_http_lua_module.so;\n"
            );
            load + &main(setup, &by_lookup(setup))
        }
        _ => main(setup, &by_table(setup)),
    }
}

/// As it was published, but for places and the number of connections.
fn published(setup: &Setup, lua: &Lua) -> String {
    let folder = setup.folder.display().to_string();
    let places = [
        ("@MODULES@", lua.modules.display().to_string()),
        ("@SEEDS@", folder.clone()),
        ("@RESOLV_CONF@", format!("{folder}/resolv.conf")),
        ("@BACKEND_PORT@", setup.backend_port().to_string()),
        ("@PORT@", setup.listen.port().to_string()),
    ];
    let filled = |text: String, (name, value): &(&str, String)| text.replace(name, value);
    places.iter().fold(CALLBACKS_CONF.to_string(), filled)
}

/// Around either way to choose a backend.
fn main(setup: &Setup, http: &str) -> String {
    let core = setup.cores.first().copied().unwrap_or(0);
    let folder = setup.folder.display();
    format!(
        r#"daemon off;
worker_processes 1;
worker_cpu_affinity 1{zeros};
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;

events {{
    worker_connections {connections};
    multi_accept on;
}}

http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;

{http}}}
"#,
        zeros = "0".repeat(core),
        descriptors = 2 * setup.connections_max + 128,
        connections = 2 * setup.connections_max + 64,
    )
}

fn by_table(setup: &Setup) -> String {
    let mut text = String::from("    map $http_x_place $place {\n");
    for place in 0..TABLE_PLACES {
        let _ = writeln!(text, "        {place:03} place_{place:03};");
    }
    text += "    }\n";
    for place in 0..TABLE_PLACES {
        let backend = setup.backend_of(place);
        let _ = write!(
            text,
            "    upstream place_{place:03} {{\n        server {backend};\n        keepalive 64;\n    }}\n"
        );
    }
    let _ = write!(
        text,
        "    server {{\n        listen {listen} backlog=4096;\n        location / {{\n            \
         if ($place = \"\") {{ return 404; }}\n            proxy_pass http://$place;\n        }}\n    }}\n",
        listen = setup.listen,
    );
    text
}

fn by_lookup(setup: &Setup) -> String {
    format!(
        r#"    lua_package_path "{folder}/?.lua;/usr/local/share/lua/5.1/?.lua;/usr/share/lua/5.1/?.lua;;";
    lua_shared_dict addresses 1m;
    init_by_lua_block {{
        require("callbacks").read_resolv_conf("{folder}/resolv.conf")
    }}
    upstream services {{
        server 0.0.0.1 down; # a place holder, the balancer below says where to
        balancer_by_lua_block {{
            local balancer = require "ngx.balancer"
            balancer.set_timeouts(1, 0.5, 0.5)
            balancer.set_more_tries(1)
            local found, problem = balancer.set_current_peer(ngx.ctx.address, {port})
            if not found then
                ngx.log(ngx.ERR, "no peer: ", problem)
                return ngx.exit(500)
            end
        }}
        keepalive 512;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            rewrite_by_lua_block {{ require("callbacks").rewrite() }}
            proxy_next_upstream_tries 2;
            proxy_pass http://services;
        }}
    }}
"#,
        folder = setup.folder.display(),
        port = setup.backend_port(),
        listen = setup.listen,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::setup;

    fn lua() -> Lua {
        Lua { modules: "/m".into() }
    }

    #[test]
    fn lookups_keep_connections_and_the_published_file_is_as_it_was() {
        let lookup = config(&setup(Tweak::Lookup), Some(&lua()));
        assert!(lookup.starts_with("load_module /m/ndk_http_module.so;\n"), "{lookup}");
        assert!(lookup.contains("keepalive 512;") && lookup.contains("proxy_http_version 1.1;"));
        let published = config(&setup(Tweak::Published), Some(&lua()));
        let is_comment = |line: &&str| line.trim_start().starts_with('#');
        let lines: Vec<&str> = published.lines().filter(|line| !is_comment(line)).collect();
        let published = lines.join("\n");
        assert!(!published.contains('@'), "{published}");
        assert!(published.contains("keepalive 10;"), "{published}");
        assert!(!published.contains("proxy_http_version"), "{published}");
        assert!(published.contains("listen 127.0.0.1:15001;"), "{published}");
        assert!(published.contains("ngx.ctx.address, 15003)"), "{published}");
    }

    #[test]
    fn a_table_has_a_line_for_each_place() {
        let text = config(&setup(Tweak::Table), None);
        assert!(text.contains("        007 place_007;\n"), "{text}");
        assert!(text.contains("upstream place_001 {\n        server 127.0.0.3:15003;\n"), "{text}");
    }
}
