# Build: any Rust from Cargo.toml's minimum on, and the C compiler that the image brings.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home resnetd \
    && install -d -o 10001 /var/cache/resnetd
# where hf: models are kept
ENV HF_HOME=/var/cache/resnetd
VOLUME /var/cache/resnetd
COPY --from=build /src/target/release/resnetd /usr/local/bin/resnetd
USER 10001
EXPOSE 8080 50051
# bash speaks HTTP well enough for a probe, so that the image needs no client
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /livez HTTP/1.0\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["resnetd"]
CMD ["serve"]
