"""A server that speaks as vLLM does (0.8 to 0.33), over a real tiny teacher: its numbers are true, its faults are asked
for."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from PIL import Image

from embervlm.teachers.hf import HFTeacher

MAX_LOGPROBS = 20


class Stub:
    """`with Stub(teacher) as stub:` serves it as "tiny" at `stub.url`."""

    def __init__(
        self,
        teacher: HFTeacher,
        max_logprobs: int = MAX_LOGPROBS,
        spoil: Callable[[dict[str, Any]], Any] | None = None,
        key: str | None = None,
        names_ids: bool = True,
    ) -> None:
        """
        Args:
            spoil: makes another reply of the true one.
            names_ids: replies hold `prompt_token_ids`, as they do since vLLM 0.10.
        """
        self.teacher, self.max_logprobs, self.spoil, self.key, self.names_ids = (
            teacher, max_logprobs, spoil, key, names_ids
        )  # fmt: skip
        self.faults: list[int | str] = []  # of the next requests: a status, or "drop"
        self.asked: list[dict[str, Any]] = []
        self.most_at_once = self._now = 0
        self.slow = 0.0
        self.tells_answers = True
        self._lock, self._count = threading.Lock(), threading.Lock()

    def __enter__(self) -> Stub:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stub._answer(self, None)

            def do_POST(self) -> None:
                stub._answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: Any, body: dict[str, Any] | None) -> None:
        if body is not None:
            with self._count:
                self.asked.append(body)
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                fault = self.faults.pop(0) if self.faults else None
            try:
                if fault == "drop":
                    handler.connection.close()
                    handler.close_connection = True
                    return
                time.sleep(self.slow)
                status, reply = (fault, _error("not now")) if fault else self._reply(handler, body)
            finally:
                with self._count:
                    self._now -= 1
        else:
            card = {"id": "tiny", "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": "/m/tiny"}
            status, reply = (200, {"object": "list", "data": [card]}) if handler.path == "/v1/models" else (404, {})
            if status == 200 and not self._may(handler):
                status, reply = 401, _error("Unauthorized")
        text = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _may(self, handler: Any) -> bool:
        return self.key is None or handler.headers.get("Authorization") == f"Bearer {self.key}"

    def _reply(self, handler: Any, body: dict[str, Any]) -> tuple[int, Any]:
        if not self._may(handler):
            return 401, _error("Unauthorized")
        if body["model"] != "tiny":
            return 404, _error(f"The model `{body['model']}` does not exist.")
        wanted = body.get("prompt_logprobs")
        if wanted is not None and wanted > self.max_logprobs:
            return 400, _error(
                f"Requested prompt logprobs of {wanted}, which is greater than max allowed: {self.max_logprobs}"
            )
        with self._lock, torch.inference_mode():
            inputs = self._inputs(body["messages"], body.get("add_generation_prompt", True))
            if inputs["input_ids"].shape[1] >= 256:
                return 400, _error("This model's maximum context length is 256 tokens.")
            torch.manual_seed(body.get("seed", 0))
            drawn = {"do_sample": True, "temperature": body.get("temperature"), "top_p": body.get("top_p"), "top_k": 0}
            if body.get("logprobs") and not self.tells_answers:
                return 400, _error("logprobs is not supported")
            generated = self.teacher.model.generate(
                **inputs,
                max_new_tokens=body["max_tokens"],
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
                **(drawn if body.get("temperature") else {"do_sample": False}),
            )
            made = generated.sequences
            logits = self.teacher.model(**inputs).logits[0]
        ids = inputs["input_ids"][0].tolist()
        text = self.teacher.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)
        ended = "stop" if made[0, -1] == self.teacher.tokenizer.eos_token_id else "length"
        reply: dict[str, Any] = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "tiny",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": ended,
                    "logprobs": {"content": self._chosen(made[0, len(ids) :], generated.logits)}
                    if body.get("logprobs")
                    else None,
                }
            ],
            "prompt_logprobs": None if wanted is None else self._told(logits, ids, wanted),
            "prompt_token_ids": ids if self.names_ids and body.get("return_token_ids") else None,
        }
        return 200, self.spoil(reply) if self.spoil else reply

    @staticmethod
    def _chosen(ids: torch.Tensor, logits: tuple[torch.Tensor, ...]) -> list[dict[str, Any]]:
        return [{"logprob": float(step[0].log_softmax(-1)[token])} for token, step in zip(ids, logits, strict=True)]

    def _inputs(self, messages: list[dict[str, Any]], prompt: bool) -> Any:
        """As vLLM does it: one template over all messages, the pictures from their data URIs."""
        images, parts = [], []
        for message in messages:
            content = message["content"]
            content = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in content:
                if part["type"] == "image_url":
                    kind, _, data = part["image_url"]["url"].partition(";base64,")
                    assert kind == "data:image/png"
                    images.append(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
            parts.append(
                {
                    "role": message["role"],
                    "content": [p if p["type"] == "text" else {"type": "image"} for p in content],
                }
            )
        processor = self.teacher.processor
        text = processor.apply_chat_template(parts, add_generation_prompt=prompt, tokenize=False)
        return processor(text=[text], images=images or None, return_tensors="pt", add_special_tokens=False)

    def _told(self, logits: torch.Tensor, ids: list[int], count: int) -> list[dict[str, Any] | None]:
        """Nothing of the first token; of each other one first the realised token, then the likeliest."""
        logp = logits.float().log_softmax(-1)
        told: list[dict[str, Any] | None] = [None]
        for row, own in zip(logp[:-1], ids[1:], strict=True):
            top = row.topk(count)
            rank = int((row > row[own]).sum()) + 1
            entries = {str(own): {"logprob": float(row[own]), "rank": rank, "decoded_token": "?"}}
            for number, (value, token) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True)):
                entries.setdefault(str(token), {"logprob": value, "rank": number + 1, "decoded_token": "?"})
            told.append(entries)
        return told


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
