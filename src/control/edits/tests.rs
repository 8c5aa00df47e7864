//! Edits of what the file pins, from the question to the table and across restarts.

use std::path::Path;

use super::*;
use crate::config::{BackendState, Config, Environment};
use crate::control::layout;
use crate::table::Table;

const PINS: &str = r#""10.0.0.1:7000", { address = "10.0.0.2:7000", state = "drain", weight = 3 }"#;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("corelane-edits-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        // Of a run that was killed.
        let _ = std::fs::remove_dir_all(&folder);
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(pins: &str) -> Config {
    let text = format!(
        "[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:1\"]\nprotocol = \"tcp\"\npool = \"p\"\n\
         tcp.key = \"client_ip\"\n[pool.p]\nbalance = \"crc32_mod\"\nbackends = [{pins}]\n"
    );
    let environment =
        Environment { cores: vec![0], descriptors_max: 1_000_000, variable: &|_| None };
    crate::config::parse(&text, "test.toml", &environment).expect("good").config
}

/// What a restart finds.
struct Gateway {
    config: Config,
    sources: Sources,
    edits: Edits,
}

impl Gateway {
    fn start(folder: &Path, pins: &str) -> Gateway {
        let sources = Sources::new(folder.to_path_buf());
        Gateway { config: config(pins), sources, edits: Edits::load(folder.to_path_buf()) }
    }

    fn ask(&mut self, edit: Edit) -> oneshot::Receiver<Result<Edited, EditRefused>> {
        let (reply, answer) = oneshot::channel();
        let ground = Ground { config: &self.config, sources: &self.sources, stays: true };
        self.edits.take((edit, reply), ground);
        answer
    }

    /// As the control plane does: one thing after the other until there is the answer.
    async fn edit(&mut self, edit: Edit) -> Result<Edited, EditRefused> {
        let mut answer = self.ask(edit);
        self.settle().await;
        answer.try_recv().expect("an answer")
    }

    async fn settle(&mut self) {
        while self.edits.writing.is_some() {
            self.edits.written().await;
            let ground = Ground { config: &self.config, sources: &self.sources, stays: true };
            self.edits.go_on(ground);
        }
    }

    /// The pool's backends in a table that is built now.
    fn table(&self) -> Vec<String> {
        let layout = layout(&self.config, 1, &self.sources, self.edits.state());
        let table = Table::first(&layout, 1);
        let shown = |b: &Arc<crate::table::Backend>| {
            format!("{} {} {:?}", b.label.replace(":7000", ""), b.weight, b.state)
        };
        table.pools[0].backends.iter().map(shown).collect()
    }
}

fn edit(backend: &str, change: Change) -> Edit {
    let address = format!("{backend}:7000").parse().expect("an address");
    Edit { pool: "p".to_owned(), address, change }
}

fn add(weight: u32) -> Change {
    Change::Add(Addition { weight, ..Addition::default() })
}

fn is_written(answer: Result<Edited, EditRefused>) -> bool {
    match answer {
        Ok(Edited::InState { written, over: None, .. }) => written,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_edited_is_in_the_next_table_and_survives_a_restart() {
    let folder = Folder::new("restart");
    let mut gateway = Gateway::start(&folder.0, PINS);
    assert_eq!(gateway.table(), ["10.0.0.1 1 Ready", "10.0.0.2 3 Drain"]);
    assert!(is_written(gateway.edit(edit("10.0.0.1", Change::Down)).await));
    assert!(gateway.edits.have_changed() && !gateway.edits.have_changed());
    assert!(is_written(gateway.edit(edit("10.0.0.2", Change::Ready)).await));
    assert!(is_written(gateway.edit(edit("10.0.0.2", Change::Weight(9))).await));
    assert!(is_written(gateway.edit(edit("10.0.0.9", add(4))).await));
    assert!(is_written(gateway.edit(edit("10.0.0.3", add(1))).await));
    assert!(is_written(gateway.edit(edit("10.0.0.3", Change::Drain)).await));
    let expected = ["10.0.0.1 1 Down", "10.0.0.2 9 Ready", "10.0.0.3 1 Drain", "10.0.0.9 4 Ready"];
    assert_eq!(gateway.table(), expected);
    assert_eq!(Gateway::start(&folder.0, PINS).table(), expected, "after a restart");
    // The file has changed meanwhile: what it has by now counts, and edits of it stay.
    let other = Gateway::start(&folder.0, r#""10.0.0.9:7000", "10.0.0.2:7000""#);
    assert_eq!(other.table(), ["10.0.0.9 1 Ready", "10.0.0.2 9 Ready", "10.0.0.3 1 Drain"]);
    for backend in ["10.0.0.1", "10.0.0.3", "10.0.0.9"] {
        assert!(is_written(gateway.edit(edit(backend, Change::Remove)).await));
    }
    assert_eq!(gateway.table(), ["10.0.0.2 9 Ready"]);
    assert!(is_written(gateway.edit(edit("10.0.0.1", add(1))).await), "back as the file says");
    assert!(is_written(gateway.edit(edit("10.0.0.2", Change::Weight(3))).await));
    assert!(is_written(gateway.edit(edit("10.0.0.2", Change::Drain)).await));
    assert_eq!(gateway.table(), ["10.0.0.1 1 Ready", "10.0.0.2 3 Drain"]);
    assert!(State::load(&folder.0).expect("whole").all().is_empty(), "nothing differs any more");
}

#[tokio::test]
async fn what_makes_no_difference_is_not_written() {
    let folder = Folder::new("same");
    let mut gateway = Gateway::start(&folder.0, PINS);
    assert!(!is_written(gateway.edit(edit("10.0.0.1", Change::Ready)).await));
    assert!(!is_written(gateway.edit(edit("10.0.0.2", Change::Weight(3))).await));
    assert!(!state::path(&folder.0).exists() && !gateway.edits.have_changed());
    assert!(is_written(gateway.edit(edit("10.0.0.1", Change::Drain)).await));
    assert!(!is_written(gateway.edit(edit("10.0.0.1", Change::Drain)).await));
}

#[tokio::test]
async fn refusals_change_nothing_and_say_why() {
    let folder = Folder::new("refused");
    let mut gateway = Gateway::start(&folder.0, PINS);
    let before = gateway.table();
    let no_pool = Edit { pool: "q".to_owned(), ..edit("10.0.0.1", Change::Down) };
    let to = |source| Change::Add(Addition { source, ..Addition::default() });
    let ordered = Change::Add(Addition { order: Some(1), ..Addition::default() });
    let cases = [
        (no_pool, "pool_unknown", 404),
        (edit("10.0.0.7", Change::Down), "backend_unknown", 404),
        (edit("10.0.0.7", Change::Remove), "backend_unknown", 404),
        (edit("10.0.0.1", add(1)), "already_there", 409),
        (edit("10.0.0.1", Change::Weight(0)), "invalid", 422),
        (edit("10.0.0.7", add(65_536)), "invalid", 422),
        (edit("10.0.0.7", to(Some(0))), "invalid", 422),
        (edit("10.0.0.7", ordered), "invalid", 422),
    ];
    for (edit, label, status) in cases {
        let refused = gateway.edit(edit.clone()).await.expect_err("refused");
        assert_eq!((refused.label(), refused.http_status()), (label, status), "{edit:?}");
        assert!(!refused.to_string().is_empty());
    }
    assert_eq!(gateway.table(), before);
    assert!(!state::path(&folder.0).exists());
}

#[tokio::test]
async fn a_broken_file_is_left_alone_until_it_is_mended() {
    let folder = Folder::new("broken");
    let mut gateway = Gateway::start(&folder.0, PINS);
    assert!(is_written(gateway.edit(edit("10.0.0.1", Change::Drain)).await));
    let whole = std::fs::read(state::path(&folder.0)).expect("written");
    let torn = &whole[..whole.len() - 4];
    std::fs::write(state::path(&folder.0), torn).expect("torn");
    let mut gateway = Gateway::start(&folder.0, PINS);
    assert_eq!(gateway.table(), ["10.0.0.1 1 Ready", "10.0.0.2 3 Drain"]);
    let refused = gateway.edit(edit("10.0.0.2", Change::Ready)).await.expect_err("refused");
    assert_eq!((refused.label(), refused.http_status()), ("state_file", 500));
    assert!(refused.to_string().contains("edits.json"), "{refused}");
    assert_eq!(std::fs::read(state::path(&folder.0)).expect("there"), torn);
    gateway.edits.look_again();
    assert!(!gateway.edits.have_changed());
    std::fs::write(state::path(&folder.0), &whole).expect("mended");
    gateway.edits.look_again();
    assert!(gateway.edits.have_changed());
    assert_eq!(gateway.table()[0], "10.0.0.1 1 Drain");
    assert!(is_written(gateway.edit(edit("10.0.0.2", Change::Ready)).await));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_with_its_setting() {
    let folder = Folder::new("unwritable");
    std::fs::create_dir_all(&folder.0).expect("made");
    let file = folder.0.join("file");
    std::fs::write(&file, "no folder").expect("written");
    let mut gateway = Gateway::start(&file.join("state"), PINS);
    // Also the reading failed, in another way than "there is none".
    assert!(gateway.edits.broken.take().is_some());
    let refused = gateway.edit(edit("10.0.0.1", Change::Down)).await.expect_err("refused");
    assert_eq!(refused.label(), "state_file");
    assert!(refused.to_string().contains("runtime.state_dir"), "{refused}");
    assert_eq!(gateway.table()[0], "10.0.0.1 1 Ready", "in force is what would survive");
}

#[tokio::test]
async fn edits_that_come_at_once_are_all_kept_and_too_many_are_refused() {
    let folder = Folder::new("many");
    let mut gateway = Gateway::start(&folder.0, PINS);
    let mut answers: Vec<_> = (1..=100_u32)
        .map(|number| {
            let address = ([10, 0, 1, u8::try_from(number).expect("small")], 7000).into();
            let address = Address::Tcp(address);
            gateway.ask(Edit { pool: "p".to_owned(), address, change: add(number) })
        })
        .collect();
    gateway.settle().await;
    let mut kept = 0;
    for answer in &mut answers {
        match answer.try_recv().expect("an answer") {
            Ok(_) => kept += 1,
            Err(refused) => assert_eq!(refused, EditRefused::Busy),
        }
    }
    assert_eq!(kept, WAITING_MAX + 1);
    assert_eq!(gateway.table().len(), 2 + kept);
    assert_eq!(Gateway::start(&folder.0, PINS).table().len(), 2 + kept);
}

#[tokio::test]
async fn a_process_that_ends_takes_no_edits() {
    let folder = Folder::new("draining");
    let mut gateway = Gateway::start(&folder.0, PINS);
    let (reply, mut answer) = oneshot::channel();
    let ground = Ground { config: &gateway.config, sources: &gateway.sources, stays: false };
    gateway.edits.take((edit("10.0.0.1", Change::Down), reply), ground);
    assert_eq!(answer.try_recv().expect("an answer"), Err(EditRefused::Draining));
    assert_eq!(gateway.table()[0], format!("10.0.0.1 1 {:?}", BackendState::Ready));
}
