//! nginx with Lua, running one of the configurations under tests/seeds.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use crate::stores::process::{DEADLINE, Directory, Process, free_port};

/// A running nginx.
pub struct Nginx {
    pub process: Process,
    pub address: SocketAddr,
    pub directory: Directory,
}

impl Nginx {
    /// Starts it with a configuration whose `@NAMES@` are filled in; MODULES, SEEDS, LOGS and PORT
    /// are known here.
    pub fn start(config: &str, values: &[(&str, String)]) -> Nginx {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seeds");
        let modules = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
            .into_iter()
            .chain(["/usr/share/nginx/modules"])
            .find(|folder| Path::new(folder).join("ngx_http_lua_module.so").exists())
            .expect("nginx's Lua module: see scripts/install-test-tools");
        let directory = Directory::new("nginx");
        let port = free_port();
        let mut text = std::fs::read_to_string(seeds.join(config)).unwrap();
        let logs = directory.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        // Without its root nginx writes no log whose name has variables.
        std::fs::create_dir(directory.path().join("html")).unwrap();
        let known = [
            ("MODULES", modules.to_owned()),
            ("SEEDS", seeds.display().to_string()),
            ("LOGS", logs.display().to_string()),
            ("PORT", port.to_string()),
        ];
        for (name, value) in known.iter().chain(values) {
            text = text.replace(&format!("@{name}@"), value);
        }
        std::fs::write(directory.path().join("nginx.conf"), text).unwrap();
        let place = format!("{}/", directory.path().display());
        let arguments = ["-p", &place, "-c", "nginx.conf"].map(str::to_owned);
        let mut process = Process::start(&directory, "nginx", &arguments);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait(|| TcpStream::connect_timeout(&address, DEADLINE).is_ok());
        Nginx { process, address, directory }
    }

    /// What it said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("nginx.log")).unwrap()
    }
}
