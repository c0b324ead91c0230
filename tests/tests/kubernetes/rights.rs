//! The operator may do what it does, and nothing else.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use stillhouse_tests::jobs;
use stillhouse_tests::redis::{self, Persistence, RedisServer};
use stillhouse_tests::teacher::Fault;

use crate::world::{LAB, World, alone};

/// Group, resource and verb.
type Right = (String, String, String);

/// What the operator was seen doing.
fn used(world: &World) -> BTreeSet<Right> {
    let log = std::fs::read_to_string(world.plane.audit_log()).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut used = BTreeSet::new();
    for event in events {
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if !text("/user/username").ends_with(":stillhouse-operator") || text("/objectRef/resource").is_empty() {
            continue;
        }
        let code = event["responseStatus"]["code"].as_u64().unwrap_or(0);
        assert_ne!(code, 403, "{event}");
        let mut resource = text("/objectRef/resource");
        if !text("/objectRef/subresource").is_empty() {
            resource = format!("{resource}/{}", text("/objectRef/subresource"));
        }
        used.insert((text("/objectRef/apiGroup"), resource.clone(), text("/verb")));
        // A patch that made its object needs the right to make it.
        if code == 201 {
            used.insert((text("/objectRef/apiGroup"), resource, "create".to_owned()));
        }
    }
    used
}

/// What the chart's roles let it do.
fn granted(world: &World) -> BTreeSet<Right> {
    let roles: Api<Role> = Api::namespaced(world.client.clone(), LAB);
    let ours = ListParams::default().labels("app.kubernetes.io/instance=stillhouse");
    let mut granted = BTreeSet::new();
    for rule in world
        .wait(roles.list(&ours))
        .unwrap()
        .items
        .into_iter()
        .flat_map(|role| role.rules.unwrap_or_default())
    {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let rights = rule
                    .verbs
                    .iter()
                    .map(|verb| (group.clone(), resource.clone(), verb.clone()));
                granted.extend(rights);
            }
        }
    }
    granted
}

#[test]
fn the_charts_roles_hold_exactly_the_rights_that_the_operator_uses() {
    let _alone = alone();
    let Some(world) = World::new() else { return };
    let Some(program) = redis::program() else {
        return;
    };
    let server = RedisServer::start(&program, &world.path("redis"), Persistence::Nothing).unwrap();
    let (_proxy, queue) = world.reachable(server.address());
    world.images();
    let mut job = jobs::one_round(&world.url);
    job.spec.budget.queries = 60;
    let mut object = world.object("rights", &job, json!({ "ttlSecondsAfterFinished": 5 }));
    object["spec"]["queue"] = json!(format!("redis://{queue}/0"));
    // It waits for the teacher, and the teacher comes.
    world.teacher.set_fault(Fault::Down).unwrap();
    world.submit(&object);
    world.until("it to wait for the teacher", || {
        let message = world.status("rights").message;
        message.contains("cannot be reached").then_some(())
    });
    // An Event that happens again is counted.
    for _ in 0..2 {
        world
            .patch("rights", &json!({ "cluster": { "suspend": true } }))
            .unwrap();
        world.phase("rights", "Suspended");
        world
            .patch("rights", &json!({ "cluster": { "suspend": false } }))
            .unwrap();
        world.phase("rights", "Pending");
    }
    world.teacher.set_fault(Fault::None).unwrap();
    world.until("a gateway", || {
        (!world.pods_of("rights", "gateway").is_empty()).then_some(())
    });
    world.patch("rights", &json!({ "budget": { "queries": 70 } })).unwrap();
    world.phase("rights", "Succeeded");
    world.until("its time to be over", || world.wait(world.jobs().get("rights")).err());
    let (used, granted) = (used(&world), granted(&world));
    assert!(granted.len() > 10, "{granted:?}");
    let idle: Vec<_> = granted.difference(&used).collect();
    assert!(idle.is_empty(), "granted and not used: {idle:?}");
    let missing: Vec<_> = used.difference(&granted).collect();
    assert!(missing.is_empty(), "used and not granted by these roles: {missing:?}");
}
