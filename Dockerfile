# polypstream live on a CPU. Build: docker build -t polypstream . Use: see docs/deployment.md.
FROM python:3.12-slim-bookworm AS build
# Builds the native module.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# OpenCV needs both.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/polypstream-*.whl)[serve,metrics,openvino]" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 --groups video polypstream \
    && install -d -o polypstream -g polypstream /data
USER 1000
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8765
STOPSIGNAL SIGTERM
ENTRYPOINT ["polypstream"]
CMD ["--help"]
