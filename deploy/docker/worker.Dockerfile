# Workers and the demonstration teacher, with libtorch 2.11.0.
#
#   docker build -f deploy/docker/worker.Dockerfile -t stillhouse/stillhouse-worker:0.1.0 .
#   docker build -f deploy/docker/worker.Dockerfile --build-arg DEVICE=cuda -t stillhouse/stillhouse-worker:0.1.0-cuda .
#
# `cpu` has the libraries that processors need; `cuda` also those of CUDA 13, cuDNN and NCCL, for machines with a driver of
# that generation and NVIDIA's container toolkit. The program is the same: it opens the CUDA half where that is.

# Tags can move; see control.Dockerfile.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm
ARG DEBIAN_IMAGE=docker.io/library/debian:12.12-slim

FROM ${RUST_IMAGE} AS build
ARG DEBIAN_SNAPSHOT=""
COPY deploy/docker/packages.sh /usr/local/bin/
RUN sh /usr/local/bin/packages.sh bash ca-certificates cmake g++ make python3 python3-pip
WORKDIR /src
ARG DEVICE=cpu
# By itself, so that another source does not fetch a gigabyte again. The wheels' own layout stays: libraries find each
# other by paths relative to themselves. LIBTORCH is not set yet, for the script would take it as installed.
COPY scripts/libtorch.sh scripts/
RUN case "${DEVICE}" in cpu | cuda) ;; *) echo "DEVICE is cpu or cuda, found ${DEVICE}" >&2; exit 1 ;; esac \
    && if [ "${DEVICE}" = cuda ]; then scripts/libtorch.sh python; else scripts/libtorch.sh; fi \
    && mv .libtorch/site /opt/libtorch \
    && if [ "${DEVICE}" = cuda ]; then cp -a .libtorch/python/nvidia/. /opt/libtorch/nvidia/; fi \
    && rm -rf .libtorch
COPY . .
ARG SOURCE_DATE_EPOCH=0
ENV LIBTORCH=/opt/libtorch/torch SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false
# The program's search path names /opt/libtorch/torch/lib, so that is where the libraries lie in the image.
RUN --mount=type=cache,id=stillhouse-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=stillhouse-worker,target=/src/target \
    cargo build --release --locked -p stillhouse-worker --bins \
    && install -D -m 0755 target/release/stillhouse-worker /image/usr/bin/stillhouse-worker \
    && sh deploy/docker/libraries.sh "${DEVICE}" /opt/libtorch /image

FROM ${DEBIAN_IMAGE} AS worker
ARG DEBIAN_SNAPSHOT=""
COPY deploy/docker/packages.sh /usr/local/bin/
RUN sh /usr/local/bin/packages.sh ca-certificates libstdc++6 \
    && rm /usr/local/bin/packages.sh \
    && echo 'stillhouse:x:65532:65532::/tmp:/sbin/nologin' >> /etc/passwd \
    && echo 'stillhouse:x:65532:' >> /etc/group \
    && install -d -o 65532 -g 65532 /var/lib/stillhouse
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="stillhouse-worker" \
      org.opencontainers.image.description="Scores and trains for Stillhouse's distillation jobs; serves a teacher to try them." \
      org.opencontainers.image.source="https://github.com/stillhouse/stillhouse" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /image /
# What the container toolkit mounts of the driver, where there is one: libcuda, and nvidia-smi.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 8080 9464
ENTRYPOINT ["stillhouse-worker"]
CMD ["--help"]
