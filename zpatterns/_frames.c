/* Whole multipart messages in and out of a ZeroMQ socket, without a Python object per frame but its bytes.
 *
 * zpatterns/transfer.py explains why, finds libzmq, and has the same in Python where this was not compiled.
 * Nothing here waits: every call of libzmq is made with ZMQ_DONTWAIT, and the GIL is held throughout.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

/* zmq.h: 64 bytes, aligned as a pointer, since libzmq 4.1. */
typedef union {
    unsigned char bytes[64];
    void *aligned;
} message_t;

enum { DONTWAIT = 1, SNDMORE = 2, EVENTS = 15 };

/* Nearly all messages have no more frames than this. */
enum { FEW = 8 };

static struct {
    int (*init)(message_t *);
    int (*recv)(message_t *, void *, int);
    int (*more)(const message_t *);
    void *(*data)(message_t *);
    size_t (*size)(const message_t *);
    int (*close)(message_t *);
    int (*send)(void *, const void *, size_t, int);
    int (*get)(void *, int, void *, size_t *);
    int (*error)(void);
} zmq;

static PyObject *load(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long at[9];
    if (!PyArg_ParseTuple(args, "KKKKKKKKK:load", at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, at + 8))
        return NULL;
    zmq.init = (int (*)(message_t *))(uintptr_t)at[0];
    zmq.recv = (int (*)(message_t *, void *, int))(uintptr_t)at[1];
    zmq.more = (int (*)(const message_t *))(uintptr_t)at[2];
    zmq.data = (void *(*)(message_t *))(uintptr_t)at[3];
    zmq.size = (size_t (*)(const message_t *))(uintptr_t)at[4];
    zmq.close = (int (*)(message_t *))(uintptr_t)at[5];
    zmq.send = (int (*)(void *, const void *, size_t, int))(uintptr_t)at[6];
    zmq.get = (int (*)(void *, int, void *, size_t *))(uintptr_t)at[7];
    zmq.error = (int (*)(void))(uintptr_t)at[8];
    Py_RETURN_NONE;
}

static void *socket_of(PyObject *handle)
{
    void *socket;
    if (!zmq.error) {
        PyErr_SetString(PyExc_RuntimeError, "load() comes first");
        return NULL;
    }
    socket = PyLong_AsVoidPtr(handle);
    if (!socket && !PyErr_Occurred()) {
        errno = ENOTSOCK;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return socket;
}

static PyObject *events(PyObject *Py_UNUSED(module), PyObject *handle)
{
    void *socket = socket_of(handle);
    int ready = 0;
    size_t size = sizeof ready;
    if (!socket)
        return NULL;
    while (zmq.get(socket, EVENTS, &ready, &size) < 0) {
        errno = zmq.error();
        if (errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(ready);
}

/* A list of objects that were ours; NULL with an exception. */
static PyObject *list_of(PyObject **objects, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    while (count-- > 0)
        if (list)
            PyList_SetItem(list, count, objects[count]);
        else
            Py_DECREF(objects[count]);
    return list;
}

/* One message as a list of bytes; NULL without an exception when there is none, or with one. A message of which
 * a frame finds no memory is read to its end all the same, or its rest would be taken for the next. So is one of more
 * than `most` frames: NULL without an exception, and `*too_long`. What `message` held before, libzmq frees. */
static PyObject *receive_one(void *socket, message_t *message, Py_ssize_t most, int *too_long)
{
    PyObject *few[FEW], *frames = NULL;
    Py_ssize_t count = 0, kept = 0;
    int more = 1, failed = 0, ended = 0;
    while (more) {
        PyObject *frame;
        if (zmq.recv(message, socket, DONTWAIT) < 0) {
            int error = zmq.error();
            if (error == EINTR)
                continue;
            if (error != EAGAIN && !failed) {
                errno = error;
                PyErr_SetFromErrno(PyExc_OSError);
            }
            ended = 1;
            break;
        }
        more = zmq.more(message);
        if (++count > most || failed)
            continue;
        frame = PyBytes_FromStringAndSize(zmq.data(message), (Py_ssize_t)zmq.size(message));
        if (!frame) {
            failed = 1;
        } else if (!frames && kept < FEW) {
            few[kept++] = frame;
        } else {
            if (!frames) {
                frames = list_of(few, kept);
                kept = 0;
            }
            failed = !frames || PyList_Append(frames, frame) < 0;
            Py_DECREF(frame);
        }
    }
    *too_long = !ended && count > most;
    if (!ended && !failed && !*too_long)
        return frames ? frames : list_of(few, kept);
    Py_XDECREF(frames);
    while (kept > 0)
        Py_DECREF(few[--kept]);
    return NULL;
}

static PyObject *receive(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    message_t message;
    PyObject *batch;
    Py_ssize_t budget, most, dropped = 0;
    void *socket;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "receive(handle, budget, most)");
        return NULL;
    }
    budget = PyLong_AsSsize_t(args[1]);
    most = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred() || !(socket = socket_of(args[0])) || !(batch = PyList_New(0)))
        return NULL;
    zmq.init(&message);
    while (budget-- > 0) {
        int too_long;
        PyObject *frames = receive_one(socket, &message, most, &too_long);
        if (!frames && too_long && !PyErr_Occurred()) {
            dropped++;
            continue;
        }
        if (!frames || PyList_Append(batch, frames) < 0) {
            Py_XDECREF(frames);
            break;
        }
        Py_DECREF(frames);
    }
    zmq.close(&message);
    if (PyErr_Occurred()) {
        if (PyList_Size(batch) == 0 || !PyErr_ExceptionMatches(PyExc_OSError)) {
            Py_DECREF(batch);
            return NULL;
        }
        PyErr_Clear(); /* What has come counts; the next call finds the same error. */
    }
    return Py_BuildValue("(Nn)", batch, dropped);
}

/* One frame: the errno of libzmq, or 0. */
static int send_frame(void *socket, const char *data, size_t size, int flags)
{
    while (zmq.send(socket, data, size, flags) < 0) {
        int error = zmq.error();
        if (error != EINTR)
            return error;
    }
    return 0;
}

/* One message: the errno of libzmq, 0, or -1 with an exception. */
static int send_one(void *socket, PyObject *frames, int *begun)
{
    Py_ssize_t i, count = PyList_Size(frames);
    *begun = 0;
    if (count <= 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a message without frames cannot be sent");
        return -1;
    }
    for (i = 0; i < count; i++)
        if (!PyBytes_Check(PyList_GetItem(frames, i))) {
            PyErr_SetString(PyExc_TypeError, "the frames of a message are bytes");
            return -1;
        }
    for (i = 0; i < count; i++) {
        char *data;
        Py_ssize_t size;
        int is_last = i + 1 == count, error;
        if (PyBytes_AsStringAndSize(PyList_GetItem(frames, i), &data, &size) < 0)
            return -1;
        error = send_frame(socket, data, (size_t)size, is_last ? DONTWAIT : DONTWAIT | SNDMORE);
        if (error) {
            if (*begun && !is_last)
                send_frame(socket, "", 0, DONTWAIT); /* as PlainTransfer.send */
            return error;
        }
        *begun = 1;
    }
    return 0;
}

static PyObject *send_many(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t at, stop;
    void *socket;
    if (count != 4 || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "send(handle, messages, start, stop)");
        return NULL;
    }
    at = PyLong_AsSsize_t(args[2]);
    stop = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred() || !(socket = socket_of(args[0])))
        return NULL;
    for (; at < stop; at++) {
        PyObject *frames = PyList_GetItem(args[1], at);
        int begun, error;
        if (!frames)
            return NULL;
        if (!PyList_Check(frames)) {
            PyErr_SetString(PyExc_TypeError, "a message is a list of bytes");
            return NULL;
        }
        error = send_one(socket, frames, &begun);
        if (error < 0)
            return NULL;
        if (error)
            return Py_BuildValue("(niO)", at, error, begun ? Py_True : Py_False);
    }
    return Py_BuildValue("(niO)", at, 0, Py_False);
}

static PyMethodDef methods[] = {
    {"load", load, METH_VARARGS, "The addresses of the nine functions of libzmq."},
    {"events", events, METH_O, "See zpatterns.transfer."},
    {"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, "See zpatterns.transfer."},
    {"send", (PyCFunction)(void (*)(void))send_many, METH_FASTCALL, "See zpatterns.transfer."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_frames", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__frames(void)
{
    return PyModule_Create(&definition);
}
