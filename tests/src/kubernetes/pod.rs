//! One pod: its volumes, its root, its process.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource, Secret,
    ServiceAccount, Volume,
};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::process::{Child, Command};

use super::kueue;
use super::network::Plug;
use crate::jobs::root;
use crate::processes::program;

/// Programs that every image has.
const PROGRAMS: [&str; 3] = ["stillhouse", "stillhouse-worker", "stillhouse-operator"];

/// A pod's files and address on its node.
#[derive(Debug)]
pub struct Sandbox {
    home: PathBuf,
    /// Its place in the network.
    pub plug: Plug,
}

impl Sandbox {
    /// An empty one under `home`.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn new(home: PathBuf, plug: Plug) -> anyhow::Result<Self> {
        for folder in ["root", "volumes"] {
            std::fs::create_dir_all(home.join(folder))?;
        }
        std::fs::write(home.join("hosts"), "127.0.0.1 localhost\n")?;
        Ok(Self { home, plug })
    }

    /// Writes the names that the pod can look up. The file stays the same one, for it is mounted.
    pub fn write_hosts(&self, text: &str) {
        let file = self.home.join("hosts");
        if std::fs::read_to_string(&file).is_ok_and(|old| old != text) {
            // The pod may be gone with its folder.
            let _gone = std::fs::write(file, text);
        }
    }

    /// What its container wrote, all lives together.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// What its container left behind: its message, or the end of its log when that failed.
    #[must_use]
    pub fn ending(&self, code: i32) -> String {
        let message = std::fs::read_to_string(self.home.join("ending")).unwrap_or_default();
        if !message.is_empty() || code == 0 {
            return message;
        }
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let from = log.floor_char_boundary(log.len().saturating_sub(2048));
        log[from..].to_owned()
    }

    /// Starts the container of `pod`.
    ///
    /// # Errors
    /// When something that it names is not there; the message says what.
    pub async fn start(&self, client: &Client, pod: &Pod, server: std::net::SocketAddr) -> anyhow::Result<Child> {
        let spec = pod.spec.as_ref().context("a pod without a spec")?;
        let container = spec.containers.first().context("a pod without containers")?;
        let environment = environment(client, pod, container, self.plug.address(), server).await?;
        let script = self.script(client, pod, container).await?;
        std::fs::write(self.home.join("ending"), "")?;
        std::fs::set_permissions(self.home.join("ending"), PermissionsExt::from_mode(0o666))?;
        let log = std::fs::File::options().append(true).create(true).open(self.log())?;
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                self.plug.space(),
                "unshare",
                "--mount",
                "--propagation",
                "private",
            ])
            .args(["bash", "-c", &script, "pod"])
            .args(line(container)?)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        Ok(command.spawn()?)
    }

    /// Mounts, then takes the container's place. Its arguments are the container's command line.
    async fn script(&self, client: &Client, pod: &Pod, container: &Container) -> anyhow::Result<String> {
        let root = self.home.join("root");
        let root = root.display();
        let mut script = format!(
            "set -e\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nmount -t tmpfs none {root}\n\
             mkdir {root}/u {root}/w {root}/m\n\
             mount -t overlay overlay -o lowerdir=/,upperdir={root}/u,workdir={root}/w {root}/m\n\
             for folder in proc dev; do mount --rbind /$folder {root}/m/$folder; done\n"
        );
        let mut mount = |from: &Path, to: &str, is_read_only: bool| {
            let (from, is_dir) = (from.display(), from.is_dir());
            // A link that would lead out of the pod.
            let to = to.replacen("/var/run/", "/run/", 1);
            let make = if is_dir { "mkdir -p" } else { "touch" };
            script.push_str(&format!(
                "mkdir -p $(dirname {root}/m{to}); {make} {root}/m{to}; mount --bind {from} {root}/m{to}\n"
            ));
            if is_read_only {
                script.push_str(&format!("mount -o remount,bind,ro {root}/m{to}\n"));
            }
        };
        for name in PROGRAMS {
            mount(&program(name), &format!("/usr/local/bin/{name}"), true);
        }
        let image = container.image.as_deref().unwrap_or_default();
        if let Some(manager) = kueue::manager(image) {
            mount(&manager, "/manager", true);
        }
        mount(&libtorch(), "/opt/libtorch", true);
        mount(&self.home.join("hosts"), "/etc/hosts", true);
        let message = container
            .termination_message_path
            .as_deref()
            .unwrap_or("/run/termination-log");
        mount(&self.home.join("ending"), message, false);
        // `/tmp` hides what this machine has there, from which volumes come: it is last.
        let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
        mounts.sort_by_key(|mount| mount.mount_path == "/tmp");
        for wanted in mounts {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let volume = volumes.into_iter().find(|volume| volume.name == wanted.name);
            let from = self
                .volume(client, pod, volume.context("a mount without its volume")?)
                .await?;
            let from = wanted.sub_path.as_ref().map_or(from.clone(), |part| from.join(part));
            mount(&from, &wanted.mount_path, wanted.read_only.unwrap_or(false));
        }
        let (user, is_read_only) = security(pod, container);
        if is_read_only {
            script.push_str(&format!("mount -o remount,bind,ro {root}/m\n"));
        }
        script.push_str(&format!(
            "exec chroot {root}/m setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --pdeathsig KILL \"$@\"\n"
        ));
        Ok(script)
    }

    /// Brings up to date what the pod has of Secrets.
    ///
    /// # Errors
    /// When one is not there any more.
    pub async fn refresh(&self, client: &Client, pod: &Pod) -> anyhow::Result<()> {
        for volume in secrets(pod) {
            self.volume(client, pod, volume).await?;
        }
        Ok(())
    }

    /// The folder of a volume, with what is in it.
    async fn volume(&self, client: &Client, pod: &Pod, volume: &Volume) -> anyhow::Result<PathBuf> {
        let namespace = pod.namespace().unwrap_or_default();
        let own = self.home.join("volumes").join(&volume.name);
        std::fs::create_dir_all(&own)?;
        if let Some(claim) = &volume.persistent_volume_claim {
            let folder = claimed(client, &namespace, &claim.claim_name).await?;
            give_to_group(&folder, pod)?;
            return Ok(folder);
        }
        if let Some(source) = &volume.config_map {
            write_all(&own, &config_map(client, &namespace, &source.name).await?)?;
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            write_all(&own, &secret(client, &namespace, name).await?)?;
        } else if let Some(source) = &volume.projected {
            write_all(&own, &projected(client, pod, source).await?)?;
        } else if volume.empty_dir.is_some() {
            std::fs::set_permissions(&own, PermissionsExt::from_mode(0o777))?;
        } else {
            bail!(
                "volume {}: only claims, ConfigMaps, Secrets, projections and emptyDir are known here",
                volume.name
            );
        }
        give_to_group(&own, pod)?;
        Ok(own)
    }
}

/// Volumes with Secrets.
pub fn secrets(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.secret.is_some())
}

/// The folder of libtorch's, and of the libraries that it looks for beside it.
fn libtorch() -> PathBuf {
    let folder = std::env::var_os("LIBTORCH").map_or_else(|| root().join(".libtorch/torch"), PathBuf::from);
    folder.parent().map_or_else(|| folder.clone(), Path::to_owned)
}

/// Command line; an image's own program goes by the container's name.
fn line(container: &Container) -> anyhow::Result<Vec<String>> {
    let command = container.command.clone().unwrap_or_default();
    let arguments = container.args.clone().unwrap_or_default();
    if command.is_empty() && arguments.is_empty() {
        bail!("a container needs a command line here");
    }
    let command = if command.is_empty() {
        let image = container.image.as_deref().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        vec![name.split(':').next().unwrap_or_default().to_owned()]
    } else {
        command
    };
    Ok(command.into_iter().chain(arguments).collect())
}

fn security(pod: &Pod, container: &Container) -> (i64, bool) {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own
        .and_then(|own| own.run_as_user)
        .or(of_pod.and_then(|of| of.run_as_user));
    let is_read_only = own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false);
    (user.unwrap_or(0), is_read_only)
}

/// What the pod's group may write, as a kubelet does it for `fsGroup`.
fn give_to_group(folder: &Path, pod: &Pod) -> anyhow::Result<()> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let Some(group) = context.and_then(|context| context.fs_group) else {
        return Ok(());
    };
    let group = u32::try_from(group)?;
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let about = path.symlink_metadata()?;
        if about.is_symlink() {
            continue;
        }
        chown(&path, None, Some(group))?;
        let more = if about.is_dir() { 0o2070 } else { 0o060 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(about.permissions().mode() | more))?;
        if about.is_dir() {
            open.extend(
                std::fs::read_dir(&path)?
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
    }
    Ok(())
}

/// Files that changed are replaced whole: somebody may be reading them.
fn write_all(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    for (name, content) in files {
        let (file, new) = (folder.join(name), folder.join(format!("..{name}")));
        if std::fs::read(&file).ok().as_ref() != Some(content) {
            std::fs::write(&new, content)?;
            std::fs::rename(new, file)?;
        }
    }
    Ok(())
}

async fn claimed(client: &Client, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.with_context(|| format!("claim {name}"))?;
    let volume = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .context("a claim that is not bound")?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let spec = volumes.get(&volume).await?.spec.context("a volume without a spec")?;
    Ok(PathBuf::from(
        spec.host_path.context("only volumes on hosts are known here")?.path,
    ))
}

async fn config_map(client: &Client, namespace: &str, name: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get(name).await.with_context(|| format!("configmap \"{name}\""))?;
    let text = map.data.unwrap_or_default();
    Ok(text.into_iter().map(|(name, text)| (name, text.into_bytes())).collect())
}

async fn secret(client: &Client, namespace: &str, name: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = secrets.get(name).await.with_context(|| format!("secret \"{name}\""))?;
    let data = secret.data.unwrap_or_default();
    Ok(data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())
}

/// What a pod reaches the server with.
async fn projected(
    client: &Client,
    pod: &Pod,
    source: &ProjectedVolumeSource,
) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut files = BTreeMap::new();
    for part in source.sources.iter().flatten() {
        if let Some(token) = &part.service_account_token {
            let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
            let account = account.unwrap_or_else(|| "default".into());
            files.insert(
                token.path.clone(),
                account_token(client, &namespace, &account).await?.into_bytes(),
            );
        }
        if let Some(map) = &part.config_map {
            files.extend(config_map(client, &namespace, &map.name).await?);
        }
        for item in part.downward_api.iter().flat_map(|api| api.items.iter().flatten()) {
            files.insert(item.path.clone(), namespace.clone().into_bytes());
        }
    }
    Ok(files)
}

/// A token of a service account.
///
/// # Errors
/// When there is no such account.
pub async fn account_token(client: &Client, namespace: &str, account: &str) -> anyhow::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let wanted: TokenRequest = serde_json::from_value(json!({ "spec": { "audiences": [] } }))?;
    let made = accounts
        .create_token_request(account, &PostParams::default(), &wanted)
        .await
        .with_context(|| format!("token of the account {account}"))?;
    Ok(made.status.context("no token")?.token)
}

async fn environment(
    client: &Client,
    pod: &Pod,
    container: &Container,
    address: std::net::Ipv4Addr,
    server: std::net::SocketAddr,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = vec![
        (
            "PATH".to_owned(),
            "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOSTNAME".to_owned(), pod.name_any()),
        ("LD_LIBRARY_PATH".to_owned(), "/opt/libtorch/torch/lib".to_owned()),
        ("KUBERNETES_SERVICE_HOST".to_owned(), server.ip().to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), server.port().to_string()),
    ];
    for variable in container.env.iter().flatten() {
        all.push((variable.name.clone(), value(client, pod, variable, address).await?));
    }
    Ok(all)
}

async fn value(client: &Client, pod: &Pod, variable: &EnvVar, address: std::net::Ipv4Addr) -> anyhow::Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(key) = &source.secret_key_ref {
        let all = secret(client, &namespace, &key.name).await?;
        let bytes = all
            .get(&key.key)
            .with_context(|| format!("key {} in the secret {}", key.key, key.name))?;
        return Ok(String::from_utf8(bytes.clone())?);
    }
    let field = source.field_ref.as_ref().map(|field| field.field_path.as_str());
    let label = field.and_then(|path| path.strip_prefix("metadata.labels['")?.strip_suffix("']"));
    if let Some(label) = label {
        return Ok(pod.labels().get(label).cloned().unwrap_or_default());
    }
    match field {
        Some("metadata.name") => Ok(pod.name_any()),
        Some("metadata.namespace") => Ok(namespace),
        Some("metadata.uid") => Ok(pod.uid().unwrap_or_default()),
        Some("status.podIP") => Ok(address.to_string()),
        other => bail!("variable {}: {other:?} is not known here", variable.name),
    }
}
