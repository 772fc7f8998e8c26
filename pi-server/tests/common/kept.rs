//! A client of kept inferences without any convenience, and a server process that can be killed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pi_model::packing::PackingGoal;
use pi_model::{Model, PublicPlan};
use pi_proto::GrpcChannel;
use pi_proto::channel::outbound;
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_proto::v1::{Frame, Open};
use pi_protocol::Error;
use pi_protocol::client::ClientSession;
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;

/// What a session needs.
pub struct Caller {
    runtime: Runtime,
    pub plan: Arc<PublicPlan>,
}

impl Caller {
    /// For batches of `batch` inferences of `model`.
    pub fn new(model: &Model, batch: usize) -> Self {
        let goal = PackingGoal::for_bandwidth(100_000_000);
        Self {
            runtime: Runtime::new().unwrap(),
            plan: Arc::new(PublicPlan::with_goal(model.public(), batch, goal).unwrap()),
        }
    }

    fn channel(&self, url: &str) -> Result<GrpcChannel, Error> {
        let open = Frame {
            open: Some(Open {
                model: self.plan.model().spec().name.clone(),
                batch: self.plan.batch() as u32,
                plan_hash: self.plan.hash().to_vec().into(),
                protocol_version: PROTOCOL_VERSION,
            }),
            ..Frame::default()
        };
        let (to_server, stream) = outbound();
        let fail = |e: &dyn std::fmt::Display| Error::Channel(e.to_string());
        let inbound = self.runtime.block_on(async {
            let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
            let channel = endpoint.connect().await.map_err(|e| fail(&e))?;
            let mut stub = PrivateInferenceClient::new(channel).max_decoding_message_size(2 << 20);
            let _ = to_server.send(Ok(open)).await;
            let opened = stub.session(stream.map_while(Result::ok)).await;
            Ok::<_, Error>(opened.map_err(|e| fail(&e))?.into_inner())
        })?;
        Ok(GrpcChannel::new(
            self.runtime.handle().clone(),
            to_server,
            inbound,
            Duration::from_secs(20),
        ))
    }

    /// A session that can prepare.
    pub fn session(&self, url: &str) -> Result<ClientSession<GrpcChannel>, Error> {
        ClientSession::connect(self.channel(url)?, Arc::clone(&self.plan))
    }

    /// A session for kept inferences alone.
    pub fn online(&self, url: &str) -> Result<ClientSession<GrpcChannel>, Error> {
        ClientSession::connect_online(self.channel(url)?, Arc::clone(&self.plan))
    }
}

/// A key file.
pub fn key_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("store.key");
    std::fs::write(&path, "5a".repeat(32)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    path
}

/// A `pi-server serve` with a store; killed on drop.
pub struct Process {
    pub child: Child,
    pub url: String,
}

impl Process {
    /// `limit`: a file-size limit in blocks of 512 bytes.
    pub fn start(model: &Path, store: &str, key: &Path, more: &[&str], limit: Option<u64>) -> Self {
        let program = env!("CARGO_BIN_EXE_pi-server");
        let mut command = match limit {
            None => Command::new(program),
            Some(blocks) => {
                let mut shell = Command::new("sh");
                // Ignored, so that a write past the limit is an error and not the end.
                let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
                shell.args(["-c", &script, program]);
                shell
            }
        };
        command.args(["serve", "--listen", "127.0.0.1:0", "--max-batch", "2"]);
        command.args(["--stop-at-eof", "--store", store]);
        command
            .arg("--model")
            .arg(model)
            .arg("--store-key-file")
            .arg(key);
        command.args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let url = format!("http://{address}");
        Self { child, url }
    }

    /// As a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// In good order.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
