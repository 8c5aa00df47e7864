//! nginx: one worker, the stream module, no look at the data.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use super::nginx_http::{self, Lua};
use super::{Forwarder, Setup};
use crate::run::plan::Tweak;

/// nginx, and where its stream module is if that is a file.
#[derive(Debug)]
pub struct Nginx {
    /// The program.
    pub program: PathBuf,
    module: Option<PathBuf>,
}

/// Where packages put modules.
pub const MODULE_FOLDERS: [&str; 4] = [
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
    "/etc/nginx/modules",
];

impl Nginx {
    /// `None` if it has no stream module.
    pub fn look(program: PathBuf) -> Option<Nginx> {
        let output = Command::new(&program).arg("-V").output().ok()?;
        let built_with = String::from_utf8_lossy(&output.stderr).into_owned();
        if built_with.split_whitespace().any(|option| option == "--with-stream") {
            return Some(Nginx { program, module: None });
        }
        let files = MODULE_FOLDERS.iter().map(|f| PathBuf::from(f).join("ngx_stream_module.so"));
        let module = files.into_iter().find(|file| file.is_file())?;
        Some(Nginx { program, module: Some(module) })
    }
}

/// How to start it.
pub fn forwarder(nginx: &Nginx, lua: Option<&Lua>, setup: &Setup) -> Forwarder {
    let file = setup.folder.join("nginx.conf");
    let log = setup.folder.join("nginx-start.log");
    let arguments = [
        // Where it logs before it has read its configuration.
        ("-e", log.display().to_string()),
        ("-p", setup.folder.display().to_string()),
        ("-c", file.display().to_string()),
    ];
    Forwarder {
        program: nginx.program.clone(),
        arguments: arguments.into_iter().flat_map(|(name, value)| [name.into(), value]).collect(),
        config: match setup.tweak {
            Tweak::Table | Tweak::Lookup | Tweak::Published => nginx_http::config(setup, lua),
            _ => config(nginx, setup),
        },
        file,
        more_files: nginx_http::files(setup),
        death: Signal::SIGTERM,
        // The published file has no master.
        processes: if setup.tweak == Tweak::Published { 1 } else { 2 },
    }
}

fn config(nginx: &Nginx, setup: &Setup) -> String {
    let mut text = String::new();
    if let Some(module) = &nginx.module {
        let _ = writeln!(text, "load_module {};", module.display());
    }
    let core = setup.cores.first().copied().unwrap_or(0);
    let folder = setup.folder.display();
    let _ = write!(
        text,
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

stream {{
    access_log off;
    upstream c2s {{
"#,
        zeros = "0".repeat(core),
        descriptors = 2 * setup.connections_max + 128,
        connections = 2 * setup.connections_max + 64,
    );
    for backend in &setup.backends {
        let _ = writeln!(text, "        server {backend};");
    }
    let _ = write!(
        text,
        r#"    }}
    server {{
        listen {listen} backlog=4096;
        proxy_pass c2s;
        proxy_connect_timeout 1s;
        proxy_timeout 10m;
        tcp_nodelay on;
{buffers}    }}
}}
"#,
        listen = setup.listen,
        buffers = match setup.tweak {
            Tweak::LargeBuffers => "        proxy_buffer_size 64k;\n",
            _ => "",
        },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::tests::setup;

    #[test]
    fn the_core_is_a_bit_from_the_right() {
        let nginx = Nginx { program: "nginx".into(), module: Some("/m/stream.so".into()) };
        let mut setup = setup(Tweak::None);
        setup.cores = vec![3];
        let text = config(&nginx, &setup);
        assert!(text.starts_with("load_module /m/stream.so;\ndaemon off;\n"), "{text}");
        assert!(text.contains("worker_cpu_affinity 1000;\n"), "{text}");
        assert!(text.contains("        server 127.0.0.2:15003;\n"), "{text}");
    }
}
