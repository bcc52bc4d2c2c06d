//! nginx on a machine, with the payload.

use std::{fs, path::Path, path::PathBuf};

use anyhow::Result;

use crate::{fleet::Machine, program, transfer_node::Node};

/// A web server that runs.
pub(crate) struct WebServer<'a> {
    machine: &'a Machine,
    configuration: PathBuf,
    node: Node,
}

impl<'a> WebServer<'a> {
    /// Starts it with the files of a directory.
    pub(crate) async fn start(machine: &'a Machine, root: &Path) -> Result<Self> {
        let configuration = machine.directory.join("nginx.conf");
        fs::write(&configuration, configure(&machine.directory, root))?;
        let mut server = machine.command("sh");
        // nginx listens when its master process goes to the background, which is when the shell goes on.
        server.args(["-c", "nginx -c \"$1\" && echo ready && read go", "sh"]).arg(&configuration);
        Ok(Self { machine, configuration, node: Node::start("nginx", server).await? })
    }

    /// Returns the address of its directory.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.machine.address)
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { machine, configuration, node } = self;
        program::run(machine.command("nginx").arg("-c").arg(configuration).args(["-s", "stop"]))?;
        node.end().await
    }
}

fn configure(directory: &Path, root: &Path) -> String {
    let (directory, root) = (directory.display(), root.display());
    format!(
        "pid {directory}/nginx.pid; error_log {directory}/nginx.log; worker_processes 1; user root;\n\
         events {{}}\n\
         http {{ access_log off; sendfile on; client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;\n\
         fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;\n\
         server {{ listen 80; root {root}; }} }}\n"
    )
}
