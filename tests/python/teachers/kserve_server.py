"""The module of module.py behind the KServe Python server: kserve_server.py HTTP_PORT GRPC_PORT."""

import sys

import kserve.protocol.grpc.server as over_grpc
import kserve.protocol.rest.server as over_http
import module
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Teacher(Model):
    def __init__(self):
        super().__init__(module.NAME)
        self.ready = True

    async def get_input_types(self):
        return [{"name": "images", "datatype": "UINT8", "shape": [-1, *module.SHAPE]}]

    async def get_output_types(self):
        return [{"name": "logits", "datatype": "FP32", "shape": [-1, module.CLASSES]}]

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        logits = module.logits(payload.inputs[0].as_numpy().reshape([-1, *module.SHAPE]))
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=False)
        return InferResponse(payload.id or "", module.NAME, [output])


def stay_on_this_machine():
    """By itself the server listens on every interface, and has no option for it."""
    config, make = over_http.uvicorn.Config, over_grpc.aio.server

    def server(*arguments, **options):
        made = make(*arguments, **options)
        listen = made.add_insecure_port
        made.add_insecure_port = lambda address: listen(address.replace("[::]", "127.0.0.1"))
        return made

    over_http.uvicorn.Config = lambda app, **options: config(app, **{**options, "host": "127.0.0.1"})
    over_grpc.aio.server = server


if __name__ == "__main__":
    stay_on_this_machine()
    http_port, grpc_port = map(int, sys.argv[1:])
    ModelServer(http_port=http_port, grpc_port=grpc_port, workers=1).start([Teacher()])
