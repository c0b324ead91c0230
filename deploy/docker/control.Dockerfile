# Two images without libtorch, from one build: `--target operator`, and `--target stillhouse` (coordinators and gateways).
#
#   docker build -f deploy/docker/control.Dockerfile --target operator -t stillhouse/stillhouse-operator:0.1.0 .
#   docker build -f deploy/docker/control.Dockerfile --target stillhouse -t stillhouse/stillhouse:0.1.0 .
#
# They hold one program, the four libraries that it needs and certificate authorities: no shell, no package manager.

# The tag can move. For a build that can be repeated add the digest:
#   --build-arg RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:...
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
ARG DEBIAN_SNAPSHOT=""
COPY deploy/docker/packages.sh deploy/docker/gather.sh /usr/local/bin/
# aws-lc, which TLS is made of, is C.
RUN sh /usr/local/bin/packages.sh ca-certificates cmake g++ make
WORKDIR /src
COPY . .
# The time of the commit; what the compiler or a build script would otherwise take from the clock.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false
RUN --mount=type=cache,id=stillhouse-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=stillhouse-control,target=/src/target \
    cargo build --release --locked -p stillhouse -p stillhouse-operator --bins \
    && sh /usr/local/bin/gather.sh target/release/stillhouse /image/stillhouse \
    && sh /usr/local/bin/gather.sh target/release/stillhouse-operator /image/operator

FROM scratch AS operator
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="stillhouse-operator" \
      org.opencontainers.image.description="Runs Stillhouse's distillation jobs on Kubernetes." \
      org.opencontainers.image.source="https://github.com/stillhouse/stillhouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /image/operator /
ENV PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["stillhouse-operator"]
CMD ["run"]

# Last, so that it is what a build without --target makes.
FROM scratch AS stillhouse
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="stillhouse" \
      org.opencontainers.image.description="Coordinator, gateway and command line of Stillhouse." \
      org.opencontainers.image.source="https://github.com/stillhouse/stillhouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /image/stillhouse /
ENV PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /var/lib/stillhouse
EXPOSE 7700 9464
ENTRYPOINT ["stillhouse"]
CMD ["--help"]
