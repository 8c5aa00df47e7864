//! The name server that lookups ask: dnsmasq with a record for every name there is. It is asked for
//! each name once in a while, and what it costs is not counted.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{DOMAIN, Setup};
use crate::run::plan::LOOKUP_PLACES;

/// How to start it.
#[derive(Debug)]
pub struct NameServer {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its configuration, written to this file.
    pub file: PathBuf,
    /// The text of that.
    pub config: String,
}

/// How to start it.
pub fn name_server(program: &Path, setup: &Setup) -> NameServer {
    let file = setup.folder.join("dnsmasq.conf");
    NameServer {
        program: program.to_path_buf(),
        arguments: vec!["-k".into(), "-C".into(), file.display().to_string()],
        config: config(setup),
        file,
    }
}

fn config(setup: &Setup) -> String {
    let (port, folder) = (setup.name_server.port(), setup.folder.display());
    let mut text = format!(
        "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nno-poll\n\
         pid-file={folder}/dnsmasq.pid\nuser=root\nlocal=/{DOMAIN}/\nlocal-ttl=60\n"
    );
    for place in 0..LOOKUP_PLACES {
        let address = setup.backend_of(place).ip();
        let _ = writeln!(text, "host-record=zone{place:03}-default.{DOMAIN},{address}");
    }
    text
}
