//! A PostgreSQL server of a test's own, where the programs are installed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Shared;

/// A running server; stopped on drop.
pub(crate) struct Database {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

/// A command as a user whom PostgreSQL obeys: it refuses root.
fn command(program: &str) -> Command {
    if Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n")
    {
        let mut command = Command::new("setpriv");
        let user = [
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            program,
        ];
        command.args(user);
        return command;
    }
    Command::new(program)
}

impl Database {
    /// None, said aloud, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let installed = |program| Command::new(program).arg("--version").output().is_ok();
        if !installed("postgres") || !installed("initdb") {
            eprintln!("skipped: postgres and initdb are not on the path");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let chown = Command::new("chown")
            .arg("postgres")
            .arg(dir.path())
            .status();
        drop(chown);
        let mut init = command("initdb");
        let data = dir.path().join("data");
        init.args(["-A", "trust", "-U", "postgres", "-N", "-D"])
            .arg(&data);
        let made = init.output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut database = Self { dir, child: None };
        database.up();
        Some(database)
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn up(&mut self) {
        let data: PathBuf = self.folder().join("data");
        let mut serve = command("postgres");
        serve.arg("-D").arg(data).arg("-k").arg(self.folder());
        serve.args(["-c", "listen_addresses="]);
        serve.stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(serve.spawn().unwrap());
        let patience = Instant::now() + Duration::from_secs(30);
        while let Err(error) = Shared::open(&self.url(), None) {
            assert!(Instant::now() < patience, "{error}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it at once: `KILL` as a crash would, `INT` in good order.
    pub(crate) fn down(&mut self, signal: &str) {
        if let Some(mut child) = self.child.take() {
            let pid = child.id().to_string();
            let sent = Command::new("kill").args(["-s", signal, &pid]).status();
            sent.unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        let folder = self.folder().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{folder}/postgres")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.down("INT");
    }
}
